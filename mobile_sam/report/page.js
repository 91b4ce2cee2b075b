"use strict";
// A click or Enter on a heading sorts its table. Numbers sort by value, missing values last.
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const headings = [...heading.parentElement.children];
    const place = headings.indexOf(heading);
    const first = heading.classList.contains("number") ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = heading.getAttribute("aria-sort") === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    const compare = (a, b) => {
      const [x, y] = [a.children[place], b.children[place]];
      const [missing, absent] = [x, y].map((cell) => "missing" in cell.dataset);
      if (missing || absent) return missing - absent;
      if ("value" in x.dataset) return sign * (Number(x.dataset.value) - Number(y.dataset.value));
      return sign * x.textContent.localeCompare(y.textContent, "en", { numeric: true });
    };
    for (const each of headings) each.setAttribute("aria-sort", each === heading ? order : "none");
    const body = heading.closest("table").tBodies[0];
    body.append(...[...body.rows].sort(compare));
  });
}
// Switch for the whole gallery; the switch of each image works without this script.
for (const gallery of document.querySelectorAll(".gallery")) {
  const all = gallery.querySelector(".all");
  all.hidden = false;
  all.addEventListener("change", (event) => {
    for (const input of gallery.querySelectorAll(`.shot input[value="${event.target.value}"]`)) {
      input.checked = true;
    }
  });
  gallery.addEventListener("change", (event) => {
    if (!event.target.closest(".shot")) return;
    for (const input of all.querySelectorAll("input")) input.checked = false;
  });
}
