// One prediction as elements: its cells in the table, and all of it when it is open. Text that was searched for is marked.

const SIGNS = { right: "✓", wrong: "✗", unreadable: "?" };
const EXCERPT = 240; // characters of a text in a row that is not open; the style shows two lines of them

// Reference, answer and, where the field has any, probability or closeness.
function fieldCells(row, field, query) {
  const { reference, answers } = row.fields[field.at];
  const answer = answers[query.system];
  const predicted = answer === null || answer.predicted === null ? absent(answer) : excerpt(valueText(answer.predicted), query.text);
  return [
    make("td", { class: "start" }, excerpt(valueText(reference), query.text)),
    make("td", {}, signed(answer, predicted)),
    field.scored ? make("td", { class: "number" }, scoreText(answer)) : null,
  ].filter(Boolean);
}

// The beginning of a text, or the part of it in which something was found.
function excerpt(text, found) {
  if (!text) return empty();
  const at = found ? text.toLowerCase().indexOf(found) : -1;
  const start = at > 40 ? at - 20 : 0;
  const short = `${start ? "…" : ""}${text.slice(start, start + EXCERPT)}${text.length > start + EXCERPT ? "…" : ""}`;
  return make("span", { class: text.length > 60 ? "excerpt long" : "excerpt", dir: "auto" }, ...withMarks(short, found));
}

// A text as nodes, with every place that was found marked.
function withMarks(text, found) {
  const lower = text.toLowerCase();
  if (!found || lower.length !== text.length) return [text];
  const nodes = [];
  let start = 0;
  for (let at = lower.indexOf(found); at >= 0; at = lower.indexOf(found, start)) {
    nodes.push(text.slice(start, at), make("mark", {}, text.slice(at, at + found.length)));
    start = at + found.length;
  }
  return [...nodes, text.slice(start)];
}

function empty() {
  return make("span", { class: "absent" }, say("empty"));
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
  if (!answer || answer.score === null) return "";
  return answer.bucket ? `${answer.score.toFixed(2)} (${answer.bucket})` : answer.score.toFixed(2);
}

// What one system replied to a row: what was read from it beside the reference, then the reply as it came.
function replyView(row, query, system) {
  const { systems } = query.data;
  const name = systems[system];
  const several = systems.length > 1;
  const titles = ["field", "reference", "answer", "result"].map((each) => make("th", { scope: "col" }, say(each)));
  const reply = row.replies[system];
  const problem = row.problems[system];
  return [
    several ? make("h3", { dir: "auto" }, name) : null,
    problem === null ? null : make("p", { class: "note warning", dir: "auto" }, `${say("why_unreadable")}: ${problem}`),
    make(
      "table",
      { class: "answers" },
      make("thead", {}, make("tr", {}, ...titles)),
      make("tbody", {}, ...query.fields.map(({ at }) => comparison(row.fields[at], system, query.text))),
    ),
    make("h4", { dir: "auto" }, several ? say("raw_reply_of", { system: name }) : say("raw_reply")),
    reply === null ? absent(null) : make("pre", { class: "whole raw", dir: "auto", tabindex: "0" }, ...withMarks(reply, query.text)),
  ].filter(Boolean);
}

// One field of an open row: reference and answer whole, with what each has that the other has not.
function comparison(field, system, found) {
  const answer = field.answers[system];
  const [reference, predicted] = marked(field.reference, answer, found);
  return make(
    "tr",
    {},
    make("th", { scope: "row", dir: "auto" }, field.name),
    make("td", { "data-title": say("reference") }, reference),
    make("td", { "data-title": say("answer") }, predicted),
    make("td", { "data-title": say("result") }, ...verdict(answer)),
  );
}

function verdict(answer) {
  if (!answer) return [];
  return [
    answer.result ? signed(answer, say(answer.result)) : null,
    answer.probability === null ? null : make("div", {}, `${say("probability")} ${answer.probability.toFixed(3)}`),
    answer.closeness === null ? null : make("div", {}, `${say("bucket")} ${scoreText(answer)}`),
  ];
}

function marked(reference, answer, found) {
  const predicted = answer?.predicted ?? null;
  if (predicted === null) return [wholeText([{ text: valueText(reference), same: true }], "del", found), absent(answer)];
  if (Array.isArray(reference) || Array.isArray(predicted)) {
    const [expected, answered] = [labelsOf(reference), labelsOf(predicted)];
    return [wholeText(labelRuns(expected, answered), "del", found), wholeText(labelRuns(answered, expected), "ins", found)];
  }
  const runs = differences(reference, predicted);
  if (runs) return [wholeText(runs[0], "del", found), wholeText(runs[1], "ins", found)];
  const [left, right] = [reference, predicted].map((text) => wholeText([{ text, same: true }], "del", found));
  right.append(make("p", { class: "below" }, say("too_long_to_compare")));
  return [left, right];
}

// Runs of text, of which those that the other text lacks stand in an element.
function wholeText(runs, tag, found) {
  const nodes = runs.flatMap(({ text, same }) => (same ? withMarks(text, found) : [make(tag, {}, ...withMarks(text, found))]));
  return make("div", { class: "whole", dir: "auto" }, ...(runs.some(({ text }) => text) ? nodes : [empty()]));
}

function labelRuns(labels, others) {
  return labels.flatMap((text, at) => [
    ...(at ? [{ text: ", ", same: true }] : []),
    { text, same: others.includes(text) },
  ]);
}
