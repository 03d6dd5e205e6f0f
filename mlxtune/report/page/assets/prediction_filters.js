// The controls above the table of predictions. Each shows what the query holds (`fill`), and says in words what it asks for (`text`).

class Filters {
  // `onChange` is called after the query has changed.
  constructor(query, onChange) {
    this.query = query;
    this.data = query.data;
    this.onChange = onChange;
    const { fields, systems } = this.data;
    const some = (text) => fields.some((field) => field.text === text);
    this.controls = [
      this.#search(),
      systems.length > 1 && this.#select("system", () => systems.map((name, at) => [at, name]), Number),
      fields.length > 1 && this.#select("field", () => this.#fieldOptions(), (value) => value && Number(value)),
      this.#select("result", () => anyOf(Object.keys(SIGNS).map((result) => [result, say(result)]))),
      some(false) && this.#labels(),
      some(false) && this.#labelIn(),
      some(true) && this.#select("bucket", () => anyOf(this.#buckets().map((bucket) => [bucket, bucket]))),
      systems.length > 1 && this.#disagree(),
    ].filter(Boolean);
    const reset = make("button", { type: "button", click: () => this.#apply(() => query.clear()) }, say("reset"));
    this.element = make(
      "form",
      { class: "filters", role: "search", "aria-label": say("filters"), submit: (event) => event.preventDefault() },
      ...this.controls.map((control) => control.label),
      reset,
    );
    this.fill();
  }

  fill() {
    for (const control of this.controls) control.fill();
  }

  // What is asked for, in words.
  text() {
    const texts = this.controls.map((control) => control.text()).filter(Boolean);
    return texts.join("; ") || say("no_filter");
  }

  #apply(change) {
    change();
    this.fill();
    this.onChange();
  }

  // A select of one of the query's values. An empty list of options but for "any" turns it off.
  #select(name, options, read = String) {
    const { label, select } = makeSelect(say(name), [], (value) => this.#apply(() => (this.query[name] = read(value))));
    const fill = () => {
      setOptions(select, options());
      select.value = this.query[name];
      if (select.selectedIndex < 0) {
        this.query[name] = EMPTY[name];
        select.value = EMPTY[name];
      }
      select.disabled = select.options.length < 2;
    };
    const text = () => (select.selectedIndex > 0 || name === "system") && `${say(name)}: ${select.selectedOptions[0].textContent}`;
    return { label, fill, text, select };
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
          this.onChange();
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

  #fieldOptions() {
    return [["", say("all_fields")], ...this.data.fields.map(({ name, at }) => [at, name])];
  }

  // The labels of the fields that are asked about; with their fields' names before them where there are several.
  #labels() {
    return this.#select("label", () => {
      const fields = this.query.fields.filter((field) => !field.text);
      const title = (field, label) => (fields.length > 1 ? `${field.name}: ${label}` : label);
      return anyOf(fields.flatMap((field) => this.#labelsOf(field).map((label) => [JSON.stringify([field.at, label]), title(field, label)])));
    });
  }

  // The recipe's labels, and those that the rows hold besides.
  #labelsOf(field) {
    const seen = new Set(field.labels);
    const others = new Set();
    for (const row of this.data.rows) {
      const { reference, answers } = row.fields[field.at];
      for (const value of [reference, ...answers.map((answer) => answer?.predicted)])
        for (const label of labelsOf(value)) if (!seen.has(label)) others.add(label);
    }
    return [...field.labels, ...[...others].sort(collator.compare)];
  }

  #labelIn() {
    const control = this.#select("labelIn", () => ["either", "reference", "answer", "one"].map((each) => [each, say(`labelIn_${each}`)]));
    const fill = () => {
      control.fill();
      control.select.disabled = !this.query.label;
    };
    return { ...control, fill, text: () => this.query.label && control.text() };
  }

  // Of the texts that are asked about, from the closest to the farthest.
  #buckets() {
    const closest = new Map();
    const fields = this.query.fields.filter((field) => field.text);
    for (const row of this.data.rows)
      for (const { at } of fields)
        for (const answer of row.fields[at].answers)
          if (answer?.bucket) closest.set(answer.bucket, Math.max(closest.get(answer.bucket) ?? 0, answer.closeness ?? 0));
    return [...closest.keys()].sort((one, other) => closest.get(other) - closest.get(one));
  }

  #disagree() {
    const input = make("input", { type: "checkbox", change: () => this.#apply(() => (this.query.disagree = input.checked)) });
    return {
      label: make("label", { class: "check" }, input, say("disagree")),
      fill: () => (input.checked = this.query.disagree),
      text: () => this.query.disagree && say("disagree"),
    };
  }
}

function anyOf(options) {
  return [["", say("any")], ...options];
}
