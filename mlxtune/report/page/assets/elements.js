// What the other parts of the script build with. Text only ever becomes text: no markup is made from strings.

const words = JSON.parse(document.getElementById("words").textContent);
const language = document.documentElement.lang;
const numberFormat = new Intl.NumberFormat(language);

// A phrase of the page's language, with its {placeholders} filled in.
function say(name, values = {}) {
  return words[name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

// An element. `properties` are attributes, and functions are listeners of that event; children are elements or text.
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function makeButton(text, onClick) {
  return make("button", { type: "button", click: onClick }, text);
}

// A select with [value, text] options, under its name.
function makeSelect(name, options, onChange) {
  const select = make("select", { "aria-label": name, change: () => onChange(select.value) });
  setOptions(select, options);
  return { label: make("label", {}, make("span", {}, name), select), select };
}

function setOptions(select, options) {
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
}

// Copies text, and says on the button whether that worked: a page opened from disk may not be allowed to.
async function copy(text, button) {
  const title = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = say("copied");
  } catch {
    button.textContent = say("copy_failed");
  }
  setTimeout(() => (button.textContent = title), 2000);
}
