"use strict";
// Click on a heading to sort by it; click again to turn it round. Numbers go by `data-value`.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = heading.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      const key = (row) => {
        const cell = row.cells[column];
        const value = cell.dataset.value;
        if (value === undefined) return cell.textContent;
        return value === "" ? NaN : Number(value);
      };
      const compare = (a, b) => {
        if (typeof a === "string") return a.localeCompare(b);
        // What has no number comes last, whichever way round.
        if (Number.isNaN(a) || Number.isNaN(b)) return (Number.isNaN(a) - Number.isNaN(b)) * (descending ? -1 : 1);
        return a - b;
      };
      const rows = [...body.rows].map((row) => [key(row), row]);
      rows.sort((a, b) => (descending ? -1 : 1) * compare(a[0], b[0]));
      body.append(...rows.map(([, row]) => row));
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    });
  });
}
const all = document.getElementById("unfold");
if (all) {
  all.hidden = false;
  all.addEventListener("click", () => {
    const folds = [...document.querySelectorAll(".samples details.fold")];
    const open = folds.some((fold) => !fold.open);
    folds.forEach((fold) => { fold.open = open; });
    all.textContent = open ? "Fold toxic texts again" : "Show all folded texts";
  });
}
