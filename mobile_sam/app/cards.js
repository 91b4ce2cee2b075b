// gradio provides element and watch(names, callback). A click enlarges the card of a model to the full
// width; it stays enlarged when the cards are replaced.
let large = null;

function markEnlarged() {
  for (const card of element.querySelectorAll('.card')) {
    card.classList.toggle('large', card.dataset.model === large);
  }
}

element.addEventListener('click', (event) => {
  const image = event.target.closest('.shown');
  if (!image) return;
  const model = image.closest('.card').dataset.model;
  large = large === model ? null : model;
  markEnlarged();
});
watch('value', markEnlarged);
