// Where images come from: files that are chosen, dropped or pasted, and the examples of the page.

/** open: called with a blob, its name, and the path of an example or null. */
export function offerFiles(input, stage, open) {
  const take = ([file]) => file && open(file, file.name, null);
  input.addEventListener("change", () => take(input.files));
  addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    stage.classList.add("dropping");
  });
  addEventListener("dragleave", () => stage.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("dropping");
    take(event.dataTransfer.files);
  });
}

/** Puts a button for each example before all others, and opens the first. */
export async function offerExamples(paths, place, open) {
  const openExample = async (path) => {
    const response = await fetch(path);
    if (!response.ok) throw new Error(`The server has no ${path} (${response.status}).`);
    await open(await response.blob(), path.replace(/^.*\//, ""), path);
  };
  const buttons = paths.map((path, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.path = path;
    const picture = button.appendChild(new Image());
    picture.src = path;
    picture.alt = `Example ${number + 1}`;
    button.addEventListener("click", () => openExample(path));
    return button;
  });
  place.prepend(...buttons);
  if (paths.length) await openExample(paths[0]);
}

/** Marks the example that is open; null for none. */
export function markExample(place, path) {
  for (const button of place.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.path === path));
  }
}
