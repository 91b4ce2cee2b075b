// Of gradio: element, watch(names, then). A click makes a card as wide as all, and stays in answers.
let large = null;

function show() {
  for (const card of element.querySelectorAll('.card')) {
    card.classList.toggle('large', card.dataset.model === large);
  }
}

element.addEventListener('click', (event) => {
  const shown = event.target.closest('.shown');
  if (!shown) return;
  const model = shown.closest('.card').dataset.model;
  large = large === model ? null : model;
  show();
});
watch('value', show);
