// The predictions as values: unpacked, and what the reader asks of them: search, filters, order. Touches no element.

const EMPTY = { text: "", field: "", result: "", label: "", labelIn: "either", bucket: "", disagree: false };

// Names for the places of prediction_data.py's lists.
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
  const named = answers.map(([reference, ofSystems], at) => ({
    name: fields[at].name,
    reference,
    answers: ofSystems.map(namedAnswer),
  }));
  return { order, number, place, input, replies, problems, fields: named };
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

// What the reader asks for. `field` is a place among the fields ("" are all of them), `label` JSON of [field, label], `labelIn` where
// that label must stand, `system` a place among the systems.
class Query {
  constructor(data) {
    this.data = data;
    this.sort = { key: "order", descending: false };
    this.clear();
  }

  clear() {
    Object.assign(this, EMPTY, { system: this.data.systems.length - 1 });
  }

  // The fields that are asked about: all, or one.
  get fields() {
    return this.field === "" ? this.data.fields : [this.data.fields[this.field]];
  }

  // The rows that fit, in order.
  rows() {
    return this.#sorted(this.data.rows.filter((row) => this.#fits(row)));
  }

  #answers(row) {
    return this.fields.map(({ at }) => row.fields[at].answers[this.system]);
  }

  #fits(row) {
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
    const answers = this.#answers(row).filter((answer) => answer !== null);
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
    return !this.bucket || this.#answers(row).some((answer) => answer?.bucket === this.bucket);
  }

  #fitsSystems(row) {
    if (!this.disagree) return true;
    return this.fields.some(({ at }) => new Set(row.fields[at].answers.map(comparable)).size > 1);
  }

  #sorted(rows) {
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

// The same text for the same answer; a set of labels is the same in any order.
function comparable(answer) {
  const predicted = answer?.predicted ?? null;
  return JSON.stringify(Array.isArray(predicted) ? [...predicted].sort() : predicted);
}

function searchable(row) {
  const values = row.fields.flatMap((field) => [field.reference, ...field.answers.map((answer) => answer?.predicted)]);
  return [row.input, ...row.replies, ...row.problems, ...values.map(valueText)].join("\n").toLowerCase();
}
