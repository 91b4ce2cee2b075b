// Sources of images: files that are chosen, dropped or pasted, and the examples of the page.

/** open: called with a blob, its name, and the path of an example or null. */
export function offerFiles(input, stage, open) {
  const openFirst = ([file]) => file && open(file, file.name, null);
  input.addEventListener("change", () => openFirst(input.files));
  addEventListener("paste", ({ clipboardData }) => openFirst(clipboardData.files));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    stage.classList.add("dropping");
  });
  addEventListener("dragleave", () => stage.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("dropping");
    openFirst(event.dataTransfer.files);
  });
}

/** Adds a button for each example before all others, and opens the first example. */
export async function offerExamples(paths, container, open) {
  const openExample = async (path) => {
    const response = await fetch(path);
    if (!response.ok) throw new Error(`The server has no ${path} (${response.status}).`);
    await open(await response.blob(), path.replace(/^.*\//, ""), path);
  };
  const buttons = paths.map((path, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.path = path;
    const thumbnail = button.appendChild(new Image());
    thumbnail.src = path;
    thumbnail.alt = `Example ${number + 1}`;
    button.addEventListener("click", () => openExample(path));
    return button;
  });
  container.prepend(...buttons);
  if (paths.length) await openExample(paths[0]);
}

/** Marks the open example; null for none. */
export function markExample(container, path) {
  for (const button of container.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.path === path));
  }
}
