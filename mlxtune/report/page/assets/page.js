// The page around the predictions: its colors, its contents, what is folded, what can be chosen, and paper.

// The switch of colors. The dark style is one element; its `media` says when it holds. Paper is always light.
function setUpColors() {
  const dark = document.getElementById("dark");
  const media = { system: dark.media, light: "not all", dark: "screen" };
  const control = document.getElementById("colors");
  const apply = (choice) => {
    dark.media = media[choice];
    control.querySelector(`[value="${choice}"]`).checked = true;
  };
  try {
    apply(localStorage.getItem("mlxtune-colors") in media ? localStorage.getItem("mlxtune-colors") : "system");
  } catch {
    apply("system"); // a page from disk may have no storage
  }
  control.addEventListener("change", (event) => {
    apply(event.target.value);
    try {
      localStorage.setItem("mlxtune-colors", event.target.value);
    } catch {
      // the choice holds until the page is closed
    }
  });
  control.hidden = false;
}

// Marks in the contents the section that is being read: the last one that began above a third of the window.
function setUpContents() {
  const links = [...document.querySelectorAll(".contents a")];
  const sections = links.map((link) => document.getElementById(link.hash.slice(1)));
  const mark = () => {
    const above = sections.filter((section) => section.getBoundingClientRect().top < innerHeight / 3).length;
    links.forEach((link, number) => {
      if (number === Math.max(above - 1, 0)) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
  };
  let waiting = false;
  addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      mark();
    });
  });
  mark();
}

function setUpCopying() {
  for (const block of document.querySelectorAll(".code")) {
    const text = block.querySelector("code").textContent;
    const button = makeButton(say("copy"), () => copy(text, button));
    block.append(button);
  }
}

// A list in place of several versions, of which it shows one.
function setUpChoices() {
  for (const choice of document.querySelectorAll(".choice")) {
    const versions = [...choice.children].filter((child) => child.matches(".version"));
    const show = (number) => versions.forEach((version, each) => (version.hidden = each !== Number(number)));
    const options = versions.map((version, number) => [number, version.dataset.name]);
    const { label, select } = makeSelect(choice.dataset.title, options, (number) => {
      show(number);
      shown.textContent = versions[number].dataset.name;
    });
    const shown = make("span", { class: "print-only" }, versions[0].dataset.name);
    label.className = "chooser";
    label.insertBefore(shown, select);
    choice.prepend(label);
    for (const version of versions) version.querySelector(".version-name").hidden = true;
    show(0);
  }
}

// On paper everything that is folded is open.
function setUpPaper() {
  let opened = [];
  const open = () => {
    opened.push(...document.querySelectorAll("details:not([open])"));
    for (const part of opened) part.open = true;
  };
  const close = () => {
    for (const part of opened) part.open = false;
    opened = [];
  };
  matchMedia("print").addEventListener("change", (media) => (media.matches ? open() : close()));
  addEventListener("beforeprint", open);
  addEventListener("afterprint", close);
}

setUpColors();
setUpContents();
setUpCopying();
setUpChoices();
setUpPaper();
