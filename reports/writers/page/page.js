"use strict";
// Without this script the page is complete but for the inside of runs; with it tables sort and filter.

const make = (name, attributes = {}, ...content) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...content); // texts become text nodes: nothing in a record is markup
  return element;
};
const lines = (body) => Array.from(body.rows).filter((row) => !row.classList.contains("kind"));

function sortTable(table, header, index) {
  const first = header.dataset.sort === "down" ? "descending" : "ascending";
  const second = first === "descending" ? "ascending" : "descending";
  const now = header.getAttribute("aria-sort");
  const next = now === null ? first : now === first ? second : null;
  table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  if (next !== null) header.setAttribute("aria-sort", next);
  for (const body of table.tBodies) {
    const rows = lines(body);
    rows.forEach((row, place) => (row.dataset.place ??= place));
    rows.sort((a, b) => (next === null ? a.dataset.place - b.dataset.place : compare(a, b, index, next)));
    rows.forEach((row) => body.append(row));
  }
}

function compare(a, b, index, direction) {
  const [left, right] = [a, b].map((row) => row.cells[index]);
  const sign = direction === "ascending" ? 1 : -1;
  const order = a.dataset.place - b.dataset.place;
  if (left.dataset.v === undefined || right.dataset.v === undefined)
    return sign * left.textContent.localeCompare(right.textContent, "en", { numeric: true }) || order;
  const [x, y] = [left, right].map((cell) => (cell.dataset.v === "" ? null : Number(cell.dataset.v)));
  if (x === null || y === null) return (x === null) - (y === null) || order; // without a number: below, either way
  return sign * (x - y) || order;
}

function filterTable(table, words, kind, status) {
  let shown = 0, all = 0;
  for (const body of table.tBodies) {
    const wanted = kind === "" || body.dataset.kind === kind;
    let left = 0;
    for (const row of lines(body)) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(wanted && words.every((word) => text.includes(word)));
      left += !row.hidden;
      all += 1;
    }
    body.hidden = left === 0;
    shown += left;
  }
  status.textContent = shown === all ? "" : `${shown} of ${all} rows`;
}

function addTools(table) {
  const box = table.closest(".grid-box");
  const title = box.querySelector("h2, h3, h4").textContent;
  const kinds = Array.from(new Set(Array.from(table.tBodies, (body) => body.dataset.kind).filter(Boolean)));
  const status = make("span", { class: "muted", role: "status" });
  const input = make("input", { type: "search", placeholder: "Filter rows", "aria-label": `Filter the rows of: ${title}` });
  const select = make("select", { "aria-label": `Which rows of: ${title}` }, make("option", { value: "" }, "All rows"));
  select.append(...kinds.map((kind) => make("option", { value: kind }, kind)));
  const apply = () => filterTable(table, input.value.toLowerCase().split(/\s+/).filter(Boolean), select.value, status);
  input.addEventListener("input", apply);
  select.addEventListener("change", apply);
  const tools = make("div", { class: "tools", role: "group", "aria-label": `Rows of: ${title}` }, input);
  if (kinds.length > 1) tools.append(select);
  tools.append(status);
  box.querySelector(".bar").prepend(tools);
}

for (const table of document.querySelectorAll("table.grid")) {
  Array.from(table.tHead.rows[table.tHead.rows.length - 1].cells).forEach((header, index) => {
    const button = make("button", { type: "button" }, header.textContent.trim());
    if (header.title) button.title = header.title;
    header.removeAttribute("title");
    header.replaceChildren(button);
    button.addEventListener("click", () => sortTable(table, header, index));
  });
  if (Array.from(table.tBodies).reduce((sum, body) => sum + lines(body).length, 0) > 2) addTools(table);
}

// What a mouse learns by resting on a number, the keyboard and a finger learn by reaching it.
const tip = document.getElementById("tip");
function showTip(place, ...content) {
  tip.replaceChildren(...content);
  tip.hidden = false;
  tip.style.left = `${Math.max(8, Math.min(place.left, innerWidth - tip.offsetWidth - 8))}px`;
  const below = place.bottom + 6;
  tip.style.top = `${below + tip.offsetHeight < innerHeight ? below : Math.max(0, place.top - tip.offsetHeight - 6)}px`;
}
addEventListener("focusin", (event) => !event.target.closest(".canvas") && (event.target.title ? showTip(event.target.getBoundingClientRect(), event.target.title) : hideTip()));
const hideTip = () => (tip.hidden = true);
addEventListener("focusout", hideTip);
addEventListener("scroll", hideTip, { capture: true, passive: true });
addEventListener("keydown", (event) => event.key === "Escape" && hideTip());

// The files beside the page travel in it, packed; without this script their links lead to the files themselves.
let unpacked = null;
async function unpack() {
  const bytes = Uint8Array.from(atob(document.getElementById("files").textContent), (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

async function save(name, file) {
  unpacked ??= await unpack();
  const [type, text] = unpacked[name];
  const address = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: address, download: file }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

if ("DecompressionStream" in window) {
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[download]");
    if (!link || !link.isConnected) return; // the link that stores the file is clicked too, and is not in the page
    event.preventDefault();
    save(link.getAttribute("href"), link.download);
  });
}

// Paper cannot open what is closed: details that explain are printed open, and closed again after it.
let closed = [];
addEventListener("beforeprint", () => {
  closed = Array.from(document.querySelectorAll("details.problems:not([open]), #left-out:not([open])"));
  closed.forEach((part) => (part.open = true));
});
addEventListener("afterprint", () => closed.forEach((part) => (part.open = false)));

// On a narrow screen long sentences scroll in their box, which the keyboard must reach.
function reachSentences() {
  for (const box of document.querySelectorAll(".answer .said")) {
    if (box.scrollHeight > box.clientHeight + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
addEventListener("resize", reachSentences);
reachSentences();
