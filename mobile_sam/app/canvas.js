// gradio provides element, trigger(event, data), props, upload(file) and watch(names, callback).
// props.value is the image: photo (a data URI), width and height in pixels, title, boxes of the ground
// truth, and number, which is new for each image.
const one = (selector) => element.querySelector(selector);
const all = (selector) => [...element.querySelectorAll(selector)];
const frame = one('.frame'), photo = one('.frame img'), drawing = one('svg'), tags = one('.tags');
const picker = one('input[type=file]');
const CLICK_RADIUS = 4;  // screen pixels that the pointer may move during a click

let image = { boxes: [] };
let mode = '1';
let request = 0;  // number of the newest request; it supersedes earlier ones
let prompts = [];  // in order: {x, y, label} or {box}
let corner = null;  // the first corner of a box
let drag = null;

// Position of the pointer in pixels of the image.
function position(event) {
  const area = photo.getBoundingClientRect();
  const fraction = (at, from, length) => Math.min(1, Math.max(0, (at - from) / length));
  return [
    fraction(event.clientX, area.left, area.width) * image.width,
    fraction(event.clientY, area.top, area.height) * image.height,
  ];
}

function boxOf([x0, y0], [x1, y1]) {
  return [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
}

function shape(name, attributes) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  drawing.append(node);
  return node;
}

function rectangle([x0, y0, x1, y1], kind) {
  const area = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
  if (kind !== 'truth') shape('rect', { ...area, class: 'shadow' });
  shape('rect', { ...area, class: kind });
}

function point({ x, y, label }) {
  const unit = image.width / Math.max(1, photo.clientWidth);  // image pixels per screen pixel
  shape('circle', { cx: x, cy: y, r: 7 * unit, class: label ? 'on' : 'off' });
  const sign = shape('path', { class: 'sign' });
  const arm = 3.5 * unit;
  const lines = `M${x - arm} ${y}H${x + arm}` + (label ? `M${x} ${y - arm}V${y + arm}` : '');
  sign.setAttribute('d', lines);
}

function draw(unfinished) {
  drawing.setAttribute('viewBox', `0 0 ${image.width || 1} ${image.height || 1}`);
  drawing.replaceChildren();
  for (const box of image.boxes) rectangle(box, 'truth');
  const box = prompts.findLast((one) => one.box);
  if (box && !unfinished) rectangle(box.box, 'box');
  if (unfinished) rectangle(unfinished, 'box');
  prompts.filter((one) => !one.box).forEach(point);
  if (corner && !unfinished) point({ x: corner[0], y: corner[1], label: 1 });
  one('[data-do=undo]').disabled = one('[data-do=clear]').disabled = !prompts.length && !corner;
}

function sendPrompt() {
  draw();
  const box = prompts.findLast((one) => one.box);
  const points = prompts.filter((one) => !one.box).map(({ x, y, label }) => [x, y, label]);
  trigger('prompted', { points, box: box ? box.box : null, number: image.number, request: ++request });
}

function add(prompt) {
  corner = null;
  prompts.push(prompt);
  sendPrompt();
}

function setMode(value) {
  mode = value;
  corner = null;
  all('[data-mode]').forEach((b) => b.setAttribute('aria-pressed', b.dataset.mode === mode));
  frame.classList.toggle('boxing', mode === 'box');
  draw();
}

function hint(text, isError) {
  one('.hint').textContent = text;
  one('.hint').classList.toggle('wrong', Boolean(isError));
}

async function open(file) {
  if (!file) return;
  hint(`Opening ${file.name} …`);
  try {
    const { path } = await upload(file);
    trigger('uploaded', { path, name: file.name, request: ++request });
  } catch (error) {
    hint(`${file.name} cannot be uploaded; it may be larger than ${props.limit}.`, true);
  }
}

frame.addEventListener('contextmenu', (event) => event.preventDefault());
frame.addEventListener('pointerdown', (event) => {
  if (event.target.closest('.tags button') || (event.button !== 0 && event.button !== 2)) return;
  // Touch scrolls the page, except in box mode.
  if (event.pointerType === 'touch' && mode !== 'box') {
    drag = { from: position(event), x: event.clientX, y: event.clientY, touch: true };
    return;
  }
  event.preventDefault();
  frame.setPointerCapture(event.pointerId);
  drag = { from: position(event), x: event.clientX, y: event.clientY, right: event.button === 2 };
});
frame.addEventListener('pointermove', (event) => {
  if (drag) {
    drag.moved ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > CLICK_RADIUS;
    if (drag.moved && !drag.right && !drag.touch) draw(boxOf(drag.from, position(event)));
  } else if (corner) {
    draw(boxOf(corner, position(event)));
  }
});
frame.addEventListener('pointercancel', () => { drag = null; draw(); });
frame.addEventListener('pointerup', (event) => {
  if (!drag) return;
  const { from, moved, right, touch } = drag, to = position(event);
  drag = null;
  if (moved) {
    if (!right && !touch) add({ box: boxOf(from, to) });
  } else if (mode === 'box' && !right) {
    if (corner) add({ box: boxOf(corner, from) });
    else { corner = from; draw(); }
  } else {
    add({ x: from[0], y: from[1], label: right || event.shiftKey ? 0 : Number(mode) });
  }
});

element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.dataset.mode) setMode(button.dataset.mode);
  if (button.dataset.box) add({ box: image.boxes[Number(button.dataset.box)] });
  if (button.dataset.example) trigger('example_selected', { number: Number(button.dataset.example), request: ++request });
  if (button.dataset.do === 'clear') { prompts = []; corner = null; sendPrompt(); }
  if (button.dataset.do === 'undo') {
    if (corner) { corner = null; draw(); } else { prompts.pop(); sendPrompt(); }
  }
});
one('.open').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); picker.click(); }
});
picker.addEventListener('change', () => { open(picker.files[0]); picker.value = ''; });
element.addEventListener('dragover', (event) => {
  event.preventDefault();
  element.classList.add('over');
});
element.addEventListener('dragleave', () => element.classList.remove('over'));
element.addEventListener('drop', (event) => {
  event.preventDefault();
  element.classList.remove('over');
  open(event.dataTransfer.files[0]);
});
document.addEventListener('paste', (event) => open(event.clipboardData.files[0]));
new ResizeObserver(() => draw()).observe(photo);

// The photo is decoded first, so that no click falls between one image and the size of the next.
async function show() {
  const next = props.value || { boxes: [] };
  if (next.photo) {
    const loading = new Image();
    loading.src = next.photo;
    await loading.decode();
    if (next.number !== props.value.number) return;  // a newer image has arrived
  }
  image = next;
  prompts = [];
  corner = null;
  frame.hidden = !image.photo;
  one('.drop').hidden = Boolean(image.photo);
  if (image.photo) photo.src = image.photo;
  frame.style.setProperty('--ratio', image.width / image.height);
  const taken = [];
  tags.replaceChildren(...image.boxes.map(([x0, y0], number) => {
    const tag = document.createElement('button');
    tag.type = 'button';
    tag.dataset.box = number;
    tag.textContent = number + 1;
    tag.title = 'Prompt with this box of the ground truth';
    let left = 100 * x0 / image.width;
    const top = 100 * y0 / image.height;
    // Numbers of boxes with the same corner are placed side by side.
    while (taken.some(([x, y]) => Math.abs(x - left) < 5 && Math.abs(y - top) < 4)) left += 5;
    taken.push([left, top]);
    tag.style.left = `${left}%`;
    tag.style.top = `${top}%`;
    return tag;
  }));
  const truth = image.boxes.length ? ' A number prompts with a box of the ground truth.' : '';
  hint(image.photo ? `${image.title} (${image.width} × ${image.height}).${truth}` : '');
  draw();
}

one('.examples').replaceChildren(...(props.examples || []).map(({ name, photo: uri }, number) => {
  const button = document.createElement('button');
  button.type = 'button';
  button.dataset.example = number;
  button.title = name;
  const thumbnail = document.createElement('img');
  thumbnail.src = uri;
  thumbnail.alt = name;
  button.append(thumbnail);
  return button;
}));
one('.examples').hidden = !(props.examples || []).length;
watch('value', show);
show();
