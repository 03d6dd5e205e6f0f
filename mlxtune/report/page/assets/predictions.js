// The table of predictions: rows are searched, filtered, sorted and paged as values, and only those of one page are in the document.
// One row at a time is the current one (j and k step through them), and it alone can be open.

const PAGE_SIZES = [25, 50, 100, 500];

class PredictionTable {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.query = new Query(data);
    this.filters = new Filters(this.query, () => this.refresh());
    this.pageSize = PAGE_SIZES[0];
    this.page = 0;
    this.current = null; // a row
    this.open = false;
    this.isFirst = document.querySelector(".predictions") === root; // whose rows the keys and the address are about
    this.#build();
    this.refresh();
  }

  // Filters and sorts anew, then shows the page that holds the current row, or else the first.
  refresh() {
    this.rows = this.query.rows();
    const at = this.rows.indexOf(this.current);
    if (at < 0) {
      this.current = null;
      this.open = false;
    }
    this.page = Math.max(0, Math.floor(at / this.pageSize));
    this.draw();
  }

  draw() {
    const first = this.page * this.pageSize;
    const shown = this.rows.slice(first, first + this.pageSize);
    this.head.replaceChildren(...this.#headRows());
    this.body.replaceChildren(...shown.flatMap((row) => this.#bodyRows(row)));
    if (shown.length === 0) this.body.append(make("tr", {}, make("td", { colspan: this.#nColumns }, say("no_rows"))));
    const [count, total] = [this.rows.length, this.data.rows.length].map(numberFormat.format);
    this.count.textContent = say("count", { count, total });
    const [page, pages] = [this.page + 1, this.#nPages].map(numberFormat.format);
    this.pageText.textContent = say("page_of", { page, pages });
    for (const button of this.backwards) button.disabled = this.page === 0;
    for (const button of this.forwards) button.disabled = this.page === this.#nPages - 1;
    this.printed.textContent = say("printed", { filters: this.filters.text() });
  }

  // Makes the row that is `distance` rows after the current one the current one, on whichever page it is.
  step(distance, focus) {
    if (this.rows.length === 0) return;
    const at = this.rows.indexOf(this.current);
    const next = at < 0 ? this.page * this.pageSize : Math.min(Math.max(at + distance, 0), this.rows.length - 1);
    this.#select(this.rows[next], this.open, { focus, block: this.open ? "start" : "nearest" });
  }

  toggle(row, focus = true) {
    this.#select(row, !(this.open && this.current === row), { focus, block: "nearest" });
  }

  // Opens the row of that number, also where the filters left it out.
  show(number) {
    const row = this.data.rows.find((each) => each.number === number);
    if (!row) return;
    if (!this.rows.includes(row)) {
      this.query.clear();
      this.filters.fill();
      this.refresh();
    }
    this.#select(row, true, { focus: true, block: "start" });
  }

  // `focus`: whether the keyboard goes to the row, or stays where it is.
  #select(row, open, { focus, block }) {
    this.current = row;
    this.open = open;
    this.page = Math.floor(this.rows.indexOf(row) / this.pageSize);
    this.draw();
    const line = document.getElementById(this.#rowId(row));
    if (focus) line.querySelector("button").focus({ preventScroll: true });
    line.scrollIntoView({ block });
  }

  #rowId(row) {
    return this.isFirst ? `row-${row.number}` : `${this.root.id}-row-${row.number}`;
  }

  get #nPages() {
    return Math.max(1, Math.ceil(this.rows.length / this.pageSize));
  }

  get #nColumns() {
    return this.query.fields.reduce((sum, field) => sum + columnsOf(field), 2);
  }

  #build() {
    this.count = make("span", { class: "count", role: "status" });
    this.pageText = make("span");
    this.printed = make("p", { class: "print-only below" });
    this.head = make("thead");
    this.body = make("tbody", { click: (event) => this.#onClick(event) });
    const signs = Object.entries(SIGNS).map(([result, sign]) => `${sign} ${say(result)}`);
    this.root.append(
      this.filters.element,
      make("div", { class: "bar" }, this.count, this.#stepButtons()),
      this.printed,
      make(
        "div",
        { class: "scroll", role: "group", "aria-label": this.root.getAttribute("aria-label"), tabindex: "0" },
        make("table", {}, this.head, this.body),
      ),
      make("p", { class: "below" }, signs.join(" · ")),
      this.#pager(),
    );
  }

  #stepButtons() {
    return make(
      "span",
      { class: "buttons push" },
      makeButton(`↑ ${say("previous_row")}`, () => this.step(-1, false)),
      makeButton(`↓ ${say("next_row")}`, () => this.step(1, false)),
      makeButton(say("open_row"), () => this.current && this.toggle(this.current, false)),
    );
  }

  #pager() {
    const turn = (name, page) =>
      makeButton(say(name), () => {
        this.page = page();
        this.draw();
      });
    this.backwards = [turn("first_page", () => 0), turn("previous_page", () => this.page - 1)];
    this.forwards = [turn("next_page", () => this.page + 1), turn("last_page", () => this.#nPages - 1)];
    const sizes = PAGE_SIZES.map((size) => [size, size]);
    const size = makeSelect(say("rows_a_page"), sizes, (value) => {
      this.pageSize = Number(value);
      this.refresh();
    });
    return make(
      "div",
      { class: "bar" },
      make("span", { class: "buttons" }, ...this.backwards),
      this.pageText,
      make("span", { class: "buttons" }, ...this.forwards),
      size.label,
      make("span", { class: "keys push" }, say("keys")),
    );
  }

  #headRows() {
    const { fields } = this.query;
    const groups = fields.map((field) =>
      make("th", { scope: "colgroup", colspan: columnsOf(field), class: "start", dir: "auto" }, field.name),
    );
    const parts = fields.flatMap((field) => [
      this.#sortable(say("reference"), [field.at, "reference"], { class: "start" }),
      this.#sortable(say("answer"), [field.at, "answer"]),
      field.scored
        ? this.#sortable(say(field.text ? "bucket" : "probability_short"), [field.at, "score"], { class: "number" })
        : null,
    ]);
    return [
      make(
        "tr",
        {},
        this.#sortable(say("row"), "order", { rowspan: 2 }),
        this.#sortable(say("input"), "input", { rowspan: 2 }),
        ...groups,
      ),
      make("tr", {}, ...parts),
    ];
  }

  // A heading that sorts by its column: upwards first, then downwards.
  #sortable(title, key, properties = {}) {
    const { sort } = this.query;
    const name = JSON.stringify(key);
    const isKey = JSON.stringify(sort.key) === name;
    const direction = isKey ? (sort.descending ? "descending" : "ascending") : "none";
    const onClick = () => {
      this.query.sort = { key, descending: isKey && !sort.descending };
      this.refresh();
      [...this.head.querySelectorAll(".sort")].find((button) => button.dataset.key === name).focus();
    };
    const button = make("button", { type: "button", class: "sort", "data-key": name, click: onClick }, title);
    return make("th", { scope: "col", "aria-sort": direction, ...properties }, button);
  }

  #bodyRows(row) {
    const isCurrent = row === this.current;
    const isOpen = isCurrent && this.open;
    const properties = { type: "button", "aria-expanded": String(isOpen), "aria-label": say("row_number", row) };
    const line = make(
      "tr",
      {
        id: this.#rowId(row),
        class: isCurrent ? "row current" : "row",
        "aria-current": isCurrent ? "true" : null,
        "data-order": row.order,
      },
      make("th", { scope: "row" }, make("button", properties, String(row.number))),
      make("td", {}, excerpt(row.input, this.query.text)),
      ...this.query.fields.flatMap((field) => fieldCells(row, field, this.query)),
    );
    return isOpen ? [line, this.#openedRow(row)] : [line];
  }

  #onClick(event) {
    const line = event.target.closest("tr.row");
    const isSelecting = !document.getSelection().isCollapsed; // text of the row, to be copied
    if (line && (event.target.closest("button") || !isSelecting)) this.toggle(this.data.rows[line.dataset.order]);
  }

  // The whole of a row: its input, then what each system replied, the chosen one first.
  #openedRow(row) {
    const chosen = this.query.system;
    const others = [...this.data.systems.keys()].filter((system) => system !== chosen);
    const content = make(
      "div",
      { class: "opened-content" },
      this.#openedBar(row),
      make("h4", {}, say("input")),
      make("div", { class: "whole input-text", dir: "auto", tabindex: "0" }, ...withMarks(row.input, this.query.text)),
      ...[chosen, ...others].flatMap((system) => replyView(row, this.query, system)),
      make("p", { class: "below" }, say("difference_legend")),
    );
    return make("tr", { class: "opened" }, make("td", { colspan: this.#nColumns }, content));
  }

  #openedBar(row) {
    const link = `#${this.#rowId(row)}`;
    const copyLink = makeButton(say("copy_link"), () => copy(new URL(link, location.href).href, copyLink));
    return make(
      "div",
      { class: "bar" },
      make("strong", {}, say("row_number", row)),
      make("span", { class: "place" }, row.place),
      make("a", { href: link }, say("link_to_row")),
      copyLink,
      make(
        "span",
        { class: "buttons push" },
        makeButton(`↑ ${say("previous_row")}`, () => this.step(-1, true)),
        makeButton(`↓ ${say("next_row")}`, () => this.step(1, true)),
        makeButton(say("close"), () => this.toggle(row)),
      ),
    );
  }
}

function columnsOf(field) {
  return field.scored ? 3 : 2;
}

// The tables of this page; the keys and the address are about the first one.
async function setUpPredictions() {
  const tables = [];
  for (const root of document.querySelectorAll(".predictions")) {
    const data = root.querySelector(".packed");
    const note = make("p", { class: "below" }, say("loading"));
    root.replaceChildren(data, note);
    if (typeof DecompressionStream === "undefined") {
      note.textContent = say("too_old");
      continue;
    }
    const unpacked = await unpack(data.textContent);
    note.remove();
    tables.push(new PredictionTable(root, unpacked));
  }
  if (tables.length === 0) return;
  const followAddress = () => {
    const row = /^#row-(\d+)$/.exec(location.hash);
    if (row) tables[0].show(Number(row[1]));
  };
  addEventListener("hashchange", followAddress);
  addEventListener("keydown", (event) => onKey(event, tables[0]));
  followAddress();
  document.getElementById(location.hash.slice(1))?.scrollIntoView(); // the tables have moved what the address names
}

function onKey(event, table) {
  const isTyping = event.target.closest?.("input, select, textarea");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j") table.step(1, true);
  else if (event.key === "k") table.step(-1, true);
  else if (event.key === "Enter" && table.current && event.target === document.body) table.toggle(table.current);
}

setUpPredictions();
