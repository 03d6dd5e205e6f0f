// The table of predictions: unpacked, then searched, filtered, sorted and paged in memory; only the rows of one page are in the
// document. One row at a time is the current one (j and k step through them), and it alone can be open.

const SIGNS = { right: "✓", wrong: "✗", unreadable: "?" };
const EXCERPT = 240; // characters of a text in a row that is not open; the style shows two lines of them
const PAGE_SIZES = [25, 50, 100, 500];

// -- The data: names for the places of prediction_data.py's lists --

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const { systems, fields, rows } = await new Response(stream).json();
  const named = rows.map((row, order) => namedRow(row, order, fields));
  return { systems, fields: fields.map((field, at) => ({ ...field, at, scored: isScored(named, at) })), rows: named };
}

// Whether any answer of a field has a probability or a closeness.
function isScored(rows, at) {
  return rows.some((row) => row.fields[at].answers.some((answer) => answer && answer.score !== null));
}

function namedRow([number, place, input, replies, problems, answers], order, fields) {
  return {
    order,
    number,
    place,
    input,
    replies,
    problems,
    fields: answers.map(([reference, answers], at) => ({
      ...fields[at],
      reference,
      answers: answers.map(namedAnswer),
    })),
  };
}

function namedAnswer(answer) {
  if (answer === null) return null;
  const [predicted, right, probability, bucket, closeness] = answer;
  const result = predicted === null ? "unreadable" : right === null ? "" : right ? "right" : "wrong";
  return { predicted, right, probability, bucket, closeness, result, score: closeness ?? probability };
}

function labelsOf(value) {
  return value === null || value === undefined ? [] : Array.isArray(value) ? value : [value];
}

function valueText(value) {
  return labelsOf(value).join(", ");
}

// -- What the reader asked for, and which rows that leaves --

class Query {
  constructor(data) {
    this.text = "";
    this.system = data.systems.length - 1;
    this.field = ""; // its place among the fields; "" are all
    this.result = "";
    this.label = ""; // JSON of [field, label]
    this.labelIn = "either";
    this.bucket = "";
    this.disagree = false;
    this.sort = { key: "order", descending: false };
  }

  // The row's fields that are asked about.
  fields(row) {
    return this.field === "" ? row.fields : [row.fields[this.field]];
  }

  answers(row) {
    return this.fields(row).map((field) => field.answers[this.system]);
  }

  fits(row) {
    return (
      this.#fitsResult(row) && this.#fitsLabel(row) && this.#fitsBucket(row) && this.#fitsSystems(row) && this.#fitsText(row)
    );
  }

  #fitsText(row) {
    if (!this.text) return true;
    row.searchable ??= searchable(row);
    return row.searchable.includes(this.text);
  }

  #fitsResult(row) {
    if (!this.result) return true;
    const answers = this.answers(row).filter((answer) => answer !== null);
    if (this.result === "unreadable")
      return row.problems[this.system] !== null || answers.some((answer) => answer.result === "unreadable");
    const judged = answers.filter((answer) => answer.right !== null);
    if (this.result === "right") return judged.length > 0 && judged.every((answer) => answer.right);
    return judged.some((answer) => !answer.right);
  }

  #fitsLabel(row) {
    if (!this.label) return true;
    const [at, label] = JSON.parse(this.label);
    const expected = labelsOf(row.fields[at].reference).includes(label);
    const answered = labelsOf(row.fields[at].answers[this.system]?.predicted).includes(label);
    return {
      either: expected || answered,
      reference: expected,
      answer: answered,
      one: expected !== answered,
    }[this.labelIn];
  }

  #fitsBucket(row) {
    return !this.bucket || this.answers(row).some((answer) => answer?.bucket === this.bucket);
  }

  #fitsSystems(row) {
    if (!this.disagree) return true;
    return this.fields(row).some(
      ({ answers }) => new Set(answers.map((answer) => JSON.stringify(comparable(answer)))).size > 1,
    );
  }

  sorted(rows) {
    const key = this.#sortKey();
    const direction = this.sort.descending ? -1 : 1;
    return [...rows].sort((one, other) => {
      const [a, b] = [key(one), key(other)];
      if (a === null || b === null) return (a === null) - (b === null) || one.order - other.order; // absent ones come last
      const difference = typeof a === "number" ? a - b : collator.compare(a, b);
      return direction * difference || one.order - other.order;
    });
  }

  // Row -> what it is sorted by. Keys are "order", "input", or [field, "reference" | "answer" | "score"].
  #sortKey() {
    const { key } = this.sort;
    if (key === "order") return (row) => row.order;
    if (key === "input") return (row) => row.input;
    const [at, part] = key;
    return (row) => {
      if (part === "reference") return valueText(row.fields[at].reference);
      const answer = row.fields[at].answers[this.system];
      if (part === "score") return answer?.score ?? null;
      return answer === null || answer.predicted === null ? null : valueText(answer.predicted);
    };
  }
}

const collator = new Intl.Collator(language, { numeric: true });

// A set of labels is the same in any order.
function comparable(answer) {
  const predicted = answer?.predicted ?? null;
  return Array.isArray(predicted) ? [...predicted].sort() : predicted;
}

function searchable(row) {
  const values = row.fields.flatMap((field) => [field.reference, ...field.answers.map((answer) => answer?.predicted)]);
  return [row.input, ...row.replies, ...values.map(valueText)].join("\n").toLowerCase();
}

// -- What is shown of it --

class PredictionTable {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.query = new Query(data);
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
    this.rows = this.query.sorted(this.data.rows.filter((row) => this.query.fits(row)));
    const at = this.rows.indexOf(this.current);
    if (at < 0) {
      this.current = null;
      this.open = false;
    }
    this.page = Math.max(0, Math.floor(at / this.pageSize));
    this.draw();
  }

  // Shows the page, and says what it is.
  draw() {
    const pages = Math.max(1, Math.ceil(this.rows.length / this.pageSize));
    const first = this.page * this.pageSize;
    const shown = this.rows.slice(first, first + this.pageSize);
    this.head.replaceChildren(...this.#headRows());
    this.body.replaceChildren(...shown.flatMap((row) => this.#bodyRows(row)));
    if (shown.length === 0) this.body.append(make("tr", {}, make("td", { colspan: this.nColumns }, say("no_rows"))));
    this.count.textContent = say("count", {
      count: numberFormat.format(this.rows.length),
      total: numberFormat.format(this.data.rows.length),
    });
    this.pageText.textContent = say("page_of", { page: numberFormat.format(this.page + 1), pages: numberFormat.format(pages) });
    for (const button of this.backwards) button.disabled = this.page === 0;
    for (const button of this.forwards) button.disabled = this.page === pages - 1;
    this.printed.textContent = say("printed", { filters: this.#filterText() });
  }

  // Makes the row that lies `distance` rows on among those that fit the current one, on whichever page it is.
  step(distance) {
    if (this.rows.length === 0) return;
    const at = this.rows.indexOf(this.current);
    const next = at < 0 ? this.page * this.pageSize : Math.min(Math.max(at + distance, 0), this.rows.length - 1);
    this.select(this.rows[next], this.open);
  }

  select(row, open) {
    this.current = row;
    this.open = open;
    this.page = Math.floor(this.rows.indexOf(row) / this.pageSize);
    this.draw();
    const element = document.getElementById(this.#rowId(row));
    element.querySelector("button").focus({ preventScroll: true });
    element.scrollIntoView({ block: open ? "start" : "nearest" });
  }

  toggle(row) {
    this.select(row, !(this.open && this.current === row));
  }

  // Opens the row of that number, also where the filters left it out.
  show(number) {
    const row = this.data.rows.find((each) => each.number === number);
    if (!row) return;
    if (!this.rows.includes(row)) this.reset();
    this.select(row, true);
  }

  reset() {
    this.query = new Query(this.data);
    this.controls.forEach((control) => control.fill());
    this.refresh();
  }

  #rowId(row) {
    return this.isFirst ? `row-${row.number}` : `${this.root.id}-row-${row.number}`;
  }

  // The fields that have columns: all, or the one that is asked about.
  get #columns() {
    return this.query.field === "" ? this.data.fields : [this.data.fields[this.query.field]];
  }

  get nColumns() {
    return this.#columns.reduce((sum, field) => sum + (field.scored ? 3 : 2), 2);
  }

  #build() {
    this.count = make("span", { class: "count", role: "status" });
    this.pageText = make("span");
    this.printed = make("p", { class: "print-only below" });
    this.head = make("thead");
    this.body = make("tbody", { click: (event) => this.#onClick(event) });
    const button = (text, onClick) => make("button", { type: "button", click: onClick }, text);
    const go = (page) => () => {
      this.page = page(Math.ceil(this.rows.length / this.pageSize));
      this.draw();
    };
    this.backwards = [button(say("first_page"), go(() => 0)), button(say("previous_page"), go(() => this.page - 1))];
    this.forwards = [button(say("next_page"), go(() => this.page + 1)), button(say("last_page"), go((pages) => pages - 1))];
    const size = makeSelect(say("rows_a_page"), PAGE_SIZES.map((each) => [each, each]), (value) => {
      this.pageSize = Number(value);
      this.refresh();
    });
    const legend = Object.entries(SIGNS).map(([result, sign]) => `${sign} ${say(result)}`).join(" · ");
    this.root.append(
      this.#filters(),
      make(
        "div",
        { class: "bar" },
        this.count,
        make(
          "span",
          { class: "buttons push" },
          button(`↑ ${say("previous_row")}`, () => this.step(-1)),
          button(`↓ ${say("next_row")}`, () => this.step(1)),
          button(say("open_row"), () => this.current && this.toggle(this.current)),
        ),
      ),
      this.printed,
      make(
        "div",
        { class: "scroll", role: "group", "aria-label": this.root.getAttribute("aria-label"), tabindex: "0" },
        make("table", {}, this.head, this.body),
      ),
      make("p", { class: "below" }, legend),
      make(
        "div",
        { class: "bar" },
        make("span", { class: "buttons" }, ...this.backwards),
        this.pageText,
        make("span", { class: "buttons" }, ...this.forwards),
        size.label,
        make("span", { class: "keys push" }, say("keys")),
      ),
    );
  }

  // -- Filters --

  #filters() {
    const { fields, systems } = this.data;
    const change = (set) => (value) => {
      set(value);
      this.controls.forEach((control) => control.fill());
      this.refresh();
    };
    const hasLabels = fields.some((field) => !field.text);
    const hasTexts = fields.some((field) => field.text);
    this.controls = [
      this.#search(),
      systems.length > 1 &&
        this.#select("system", systems.map((name, at) => [at, name]), Number, change),
      fields.length > 1 &&
        this.#select("field", [["", say("all_fields")], ...fields.map(({ name }, at) => [at, name])], (value) => value && Number(value), change),
      this.#select("result", this.#anyOf(Object.keys(SIGNS).map((result) => [result, say(result)])), String, change),
      hasLabels && this.#labels(change),
      hasLabels && this.#select("labelIn", ["either", "reference", "answer", "one"].map((each) => [each, say(`label_in_${each}`)]), String, change),
      hasTexts && this.#select("bucket", this.#anyOf(this.#buckets().map((bucket) => [bucket, bucket])), String, change),
      systems.length > 1 && this.#disagree(change),
    ].filter(Boolean);
    const reset = make("button", { type: "button", click: () => this.reset() }, say("reset"));
    return make(
      "form",
      { class: "filters", role: "search", "aria-label": say("filters"), submit: (event) => event.preventDefault() },
      ...this.controls.map((control) => control.label),
      reset,
    );
  }

  #anyOf(options) {
    return [["", say("any")], ...options];
  }

  // A control shows what the query holds (`fill`) under a name, and says in words what it asks for (`text`).
  #select(name, options, read, change) {
    const title = say(name === "labelIn" ? "label_in" : name);
    const { label, select } = makeSelect(title, options, change((value) => (this.query[name] = read(value))));
    const fill = () => {
      select.value = this.query[name];
      if (name === "labelIn") select.disabled = !this.query.label;
    };
    fill();
    const initial = String(this.query[name]);
    const text = () => (select.value === initial ? "" : `${title}: ${select.selectedOptions[0].textContent}`);
    return { label, fill, text };
  }

  #search() {
    let waiting;
    const input = make("input", {
      type: "search",
      placeholder: say("search_hint"),
      input: () => {
        clearTimeout(waiting);
        waiting = setTimeout(() => {
          this.query.text = input.value.trim().toLowerCase();
          this.refresh();
        }, 120);
      },
    });
    return {
      label: make("label", { class: "search" }, make("span", {}, say("search")), input),
      fill: () => {
        if (!this.query.text) input.value = "";
      },
      text: () => this.query.text && `${say("search")}: ${this.query.text}`,
    };
  }

  // The labels of the fields that are asked about: the recipe's, and those that the rows hold besides.
  #labels(change) {
    const { label, select } = makeSelect(say("label"), [], change((value) => (this.query.label = value)));
    const fill = () => {
      const fields = this.#columns.filter((field) => !field.text);
      const groups = fields.map((field) =>
        make("optgroup", { label: field.name }, ...this.#labelsOf(field).map((each) => make("option", { value: JSON.stringify([field.at, each]) }, each))),
      );
      select.replaceChildren(make("option", { value: "" }, say("any")), ...groups);
      select.value = this.query.label;
      if (select.selectedIndex < 0) {
        this.query.label = "";
        select.value = "";
      }
      select.disabled = fields.length === 0;
    };
    fill();
    const text = () => this.query.label && `${say("label")}: ${select.selectedOptions[0].textContent}`;
    return { label, fill, text };
  }

  #labelsOf(field) {
    const seen = new Set();
    for (const row of this.data.rows) {
      const { reference, answers } = row.fields[field.at];
      for (const value of [reference, ...answers.map((answer) => answer?.predicted)]) labelsOf(value).forEach((each) => seen.add(each));
    }
    field.labels.forEach((label) => seen.delete(label));
    return [...field.labels, ...[...seen].sort(collator.compare)];
  }

  // From the closest to the farthest.
  #buckets() {
    const closest = new Map();
    for (const row of this.data.rows)
      for (const field of row.fields)
        for (const answer of field.answers)
          if (answer?.bucket) closest.set(answer.bucket, Math.max(closest.get(answer.bucket) ?? 0, answer.closeness ?? 0));
    return [...closest.keys()].sort((one, other) => closest.get(other) - closest.get(one));
  }

  #disagree(change) {
    const input = make("input", { type: "checkbox", change: () => change(() => (this.query.disagree = input.checked))() });
    return {
      label: make("label", { class: "check" }, input, say("disagree")),
      fill: () => (input.checked = this.query.disagree),
      text: () => this.query.disagree && say("disagree"),
    };
  }

  #filterText() {
    return this.controls.map((control) => control.text()).filter(Boolean).join("; ") || say("no_filter");
  }

  // -- Rows --

  #headRows() {
    const sortable = (title, key, properties = {}) => {
      const { sort } = this.query;
      const isKey = JSON.stringify(sort.key) === JSON.stringify(key);
      const direction = isKey ? (sort.descending ? "descending" : "ascending") : "none";
      const onClick = () => {
        this.query.sort = { key, descending: isKey && !sort.descending };
        this.refresh();
        this.head.querySelector(`[data-key='${JSON.stringify(key)}']`).focus();
      };
      const button = make("button", { type: "button", class: "sort", "data-key": JSON.stringify(key), click: onClick }, title);
      return make("th", { scope: "col", "aria-sort": direction, ...properties }, button);
    };
    return [
      make(
        "tr",
        {},
        sortable(say("row"), "order", { rowspan: 2 }),
        sortable(say("input"), "input", { rowspan: 2 }),
        ...this.#columns.map((field) => make("th", { scope: "colgroup", colspan: field.scored ? 3 : 2, class: "start", dir: "auto" }, field.name)),
      ),
      make(
        "tr",
        {},
        ...this.#columns.flatMap((field) => [
          sortable(say("reference"), [field.at, "reference"], { class: "start" }),
          sortable(say("answer"), [field.at, "answer"]),
          field.scored ? sortable(say(field.text ? "bucket" : "probability_short"), [field.at, "score"], { class: "number" }) : null,
        ]),
      ),
    ];
  }

  #bodyRows(row) {
    const isCurrent = row === this.current;
    const isOpen = isCurrent && this.open;
    const button = make("button", { type: "button", "aria-expanded": String(isOpen), "aria-label": say("row_number", row) }, String(row.number));
    const cells = this.#columns.flatMap((field) => this.#cells(row.fields[field.at], field.scored));
    const line = make(
      "tr",
      { id: this.#rowId(row), class: isCurrent ? "row current" : "row", "aria-current": isCurrent ? "true" : null, "data-order": row.order },
      make("th", { scope: "row" }, button),
      make("td", {}, excerpt(row.input)),
      ...cells,
    );
    return isOpen ? [line, this.#openedRow(row)] : [line];
  }

  #cells(field, scored) {
    const answer = field.answers[this.query.system];
    return [
      make("td", { class: "start" }, excerpt(valueText(field.reference))),
      make("td", {}, signed(answer, answer?.predicted === null || !answer ? absent(answer) : excerpt(valueText(answer.predicted)))),
      scored ? make("td", { class: "number" }, scoreText(answer)) : null,
    ];
  }

  #onClick(event) {
    const line = event.target.closest("tr.row");
    const selecting = !document.getSelection().isCollapsed; // text of the row, to be copied
    if (line && !(selecting && !event.target.closest("button"))) this.toggle(this.data.rows[line.dataset.order]);
  }

  // The whole of a row: its input, then what each system replied, the chosen one first.
  #openedRow(row) {
    const link = `#${this.#rowId(row)}`;
    const copyLink = make("button", { type: "button", click: () => copy(new URL(link, location.href).href, copyLink) }, say("copy_link"));
    const chosen = this.query.system;
    const systems = [chosen, ...this.data.systems.keys()].filter((system, at) => at === 0 || system !== chosen);
    const content = make(
      "div",
      { class: "opened-content" },
      make(
        "div",
        { class: "bar" },
        make("strong", {}, say("row_number", row)),
        make("span", { class: "place" }, row.place),
        make("a", { href: link }, say("link_to_row")),
        copyLink,
        make(
          "span",
          { class: "buttons push" },
          make("button", { type: "button", click: () => this.step(-1) }, `↑ ${say("previous_row")}`),
          make("button", { type: "button", click: () => this.step(1) }, `↓ ${say("next_row")}`),
          make("button", { type: "button", click: () => this.toggle(row) }, say("close")),
        ),
      ),
      make("h4", {}, say("input")),
      make("div", { class: "whole input-text", dir: "auto", tabindex: "0" }, row.input),
      ...systems.flatMap((system) => this.#reply(row, system)),
      make("p", { class: "below" }, say("difference_legend")),
    );
    return make("tr", { class: "opened" }, make("td", { colspan: this.nColumns }, content));
  }

  // What one system replied to a row: what was read from it beside the reference, then the reply as it came.
  #reply(row, system) {
    const several = this.data.systems.length > 1;
    const name = this.data.systems[system];
    const problem = row.problems[system];
    const reply = row.replies[system];
    const title = several ? say("raw_reply_of", { system: name }) : say("raw_reply");
    return [
      several ? make("h3", { dir: "auto" }, name) : null,
      problem === null ? null : make("p", { class: "note warning", dir: "auto" }, `${say("why_unreadable")}: ${problem}`),
      make(
        "table",
        { class: "answers" },
        make(
          "thead",
          {},
          make("tr", {}, ...["field", "reference", "answer", "result"].map((each) => make("th", { scope: "col" }, say(each)))),
        ),
        make("tbody", {}, ...this.#columns.map((field) => comparison(row.fields[field.at], system))),
      ),
      make("h4", { dir: "auto" }, title),
      reply === null ? absent(null) : make("pre", { class: "whole raw", dir: "auto", tabindex: "0" }, reply),
    ].filter(Boolean);
  }
}

function excerpt(text) {
  if (!text) return make("span", { class: "absent" }, say("empty"));
  const short = text.length > EXCERPT ? `${text.slice(0, EXCERPT)}…` : text;
  return make("span", { class: text.length > 60 ? "excerpt long" : "excerpt", dir: "auto" }, short);
}

// There is no answer: the system did not reply to the row, or its reply holds no such value.
function absent(answer) {
  return make("span", { class: "absent" }, say(answer ? "nothing_read" : "no_reply"));
}

// An answer with the sign of its result before it.
function signed(answer, content) {
  if (!answer?.result) return content;
  const { result } = answer;
  const sign = make("span", { class: `sign ${result}`, role: "img", "aria-label": say(result), title: say(result) }, SIGNS[result]);
  return make("div", { class: "signed" }, sign, content);
}

function scoreText(answer) {
  if (!answer || answer.score === null || answer.score === undefined) return "";
  return answer.bucket ? `${answer.closeness.toFixed(2)} (${answer.bucket})` : answer.score.toFixed(2);
}

// One field of an open row: reference and answer whole, with what each has that the other has not.
function comparison(field, system) {
  const answer = field.answers[system];
  const [reference, predicted] = marked(field.reference, answer?.predicted ?? null, answer);
  const verdict = [
    answer?.result ? signed(answer, say(answer.result)) : null,
    answer?.probability === null || !answer ? null : make("div", {}, `${say("probability")} ${answer.probability.toFixed(3)}`),
    answer?.closeness === null || !answer ? null : make("div", {}, `${say("bucket")} ${scoreText(answer)}`),
  ];
  return make(
    "tr",
    {},
    make("th", { scope: "row", dir: "auto" }, field.name),
    make("td", { "data-title": say("reference") }, reference),
    make("td", { "data-title": say("answer") }, predicted),
    make("td", { "data-title": say("result") }, ...verdict),
  );
}

function marked(reference, predicted, answer) {
  if (predicted === null) return [whole([{ text: valueText(reference), same: true }], "del"), absent(answer)];
  if (Array.isArray(reference) || Array.isArray(predicted)) {
    const [expected, answered] = [labelsOf(reference), labelsOf(predicted)];
    return [labels(expected, answered, "del"), labels(answered, expected, "ins")];
  }
  const runs = differences(reference, predicted);
  if (runs) return [whole(runs[0], "del"), whole(runs[1], "ins")];
  const plain = [reference, predicted].map((text) => whole([{ text, same: true }], "del"));
  plain[1].append(make("p", { class: "below" }, say("too_long_to_compare")));
  return plain;
}

function whole(runs, tag) {
  const content = runs.map(({ text, same }) => (same ? text : make(tag, {}, text)));
  return make("div", { class: "whole", dir: "auto" }, ...(content.length ? content : [make("span", { class: "absent" }, say("empty"))]));
}

function labels(own, others, tag) {
  const parts = own.flatMap((label, at) => [at ? ", " : null, others.includes(label) ? label : make(tag, {}, label)]);
  return make("div", { class: "whole", dir: "auto" }, ...(own.length ? parts : [make("span", { class: "absent" }, say("empty"))]));
}

// -- The tables of this page --

async function setUpPredictions() {
  const tables = [];
  for (const root of document.querySelectorAll(".predictions")) {
    const note = make("p", { class: "below" }, say(typeof DecompressionStream === "undefined" ? "too_old" : "loading"));
    root.append(note);
    if (typeof DecompressionStream === "undefined") continue;
    const data = await unpack(root.querySelector(".packed").textContent);
    note.remove();
    tables.push(new PredictionTable(root, data));
  }
  if (tables.length === 0) return;
  const [table] = tables;
  const follow = () => {
    const row = /^#row-(\d+)$/.exec(location.hash);
    if (row) table.show(Number(row[1]));
  };
  addEventListener("hashchange", follow);
  addEventListener("keydown", (event) => onKey(event, table));
  follow();
}

function onKey(event, table) {
  const typing = event.target.closest?.("input, select, textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j") table.step(1);
  else if (event.key === "k") table.step(-1);
  else if (event.key === "Enter" && table.current && event.target === document.body) table.toggle(table.current);
}

setUpPredictions();
