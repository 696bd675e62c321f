"use strict";
// Without this script the page is complete; with it tables sort, and a link into a closed part opens it.

function sortTable(table, header, index) {
  const first = header.dataset.sort === "down" ? "descending" : "ascending";
  const second = first === "descending" ? "ascending" : "descending";
  const now = header.getAttribute("aria-sort");
  const next = now === null ? first : now === first ? second : null;
  table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  if (next !== null) header.setAttribute("aria-sort", next);
  for (const body of table.tBodies) {
    const rows = Array.from(body.rows).filter((row) => !row.classList.contains("kind"));
    rows.sort((a, b) => (next === null ? a.dataset.place - b.dataset.place : compare(a, b, index, next)));
    rows.forEach((row) => body.append(row));
  }
}

function compare(a, b, index, direction) {
  const [left, right] = [a, b].map((row) => row.cells[index]);
  const sign = direction === "ascending" ? 1 : -1;
  if (left.dataset.value === undefined) return sign * left.textContent.localeCompare(right.textContent);
  const [x, y] = [left, right].map((cell) => (cell.dataset.value === "" ? null : Number(cell.dataset.value)));
  if (x === null || y === null) return (x === null) - (y === null); // what has no number stays below, either way
  return sign * (x - y) || a.dataset.place - b.dataset.place;
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const body of table.tBodies) Array.from(body.rows).forEach((row, place) => (row.dataset.place = place));
  Array.from(table.tHead.rows[table.tHead.rows.length - 1].cells).forEach((header, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sortTable(table, header, index));
  });
}

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  if (target) target.scrollIntoView();
}
addEventListener("hashchange", openTarget);
openTarget();
