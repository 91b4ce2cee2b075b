// Of gradio: element, trigger(event, data), props, upload(file), watch(names, then).
// props.value is the picture: its photo, width and height in pixels, title, boxes of the truth, and a
// number that is new each time.
const one = (selector) => element.querySelector(selector);
const all = (selector) => [...element.querySelectorAll(selector)];
const frame = one('.frame'), photo = one('.frame img'), drawing = one('svg'), tags = one('.tags');
const picker = one('input[type=file]');
const SLIP = 4;  // pixels of the screen that a click may move

let picture = { boxes: [] };
let mode = '1';
let turn = 0;  // what is done next ends what was before
let done = [];  // in order: {x, y, label} or {box}
let corner = null;  // where a box begins
let drag = null;

// Pixels of the image, of a place on the screen.
function place(event) {
  const shown = photo.getBoundingClientRect();
  const share = (at, from, length) => Math.min(1, Math.max(0, (at - from) / length));
  return [
    share(event.clientX, shown.left, shown.width) * picture.width,
    share(event.clientY, shown.top, shown.height) * picture.height,
  ];
}

function boxOf([x0, y0], [x1, y1]) {
  return [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
}

function shape(name, attributes) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  drawing.append(made);
  return made;
}

function rectangle([x0, y0, x1, y1], kind) {
  const area = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
  if (kind !== 'truth') shape('rect', { ...area, class: 'shadow' });
  shape('rect', { ...area, class: kind });
}

function point({ x, y, label }) {
  const unit = picture.width / Math.max(1, photo.clientWidth);  // image pixels in one of the screen
  shape('circle', { cx: x, cy: y, r: 7 * unit, class: label ? 'on' : 'off' });
  const across = shape('path', { class: 'sign' });
  const arm = 3.5 * unit;
  const lines = `M${x - arm} ${y}H${x + arm}` + (label ? `M${x} ${y - arm}V${y + arm}` : '');
  across.setAttribute('d', lines);
}

function draw(unfinished) {
  drawing.setAttribute('viewBox', `0 0 ${picture.width || 1} ${picture.height || 1}`);
  drawing.replaceChildren();
  for (const box of picture.boxes) rectangle(box, 'truth');
  const box = done.findLast((one) => one.box);
  if (box && !unfinished) rectangle(box.box, 'box');
  if (unfinished) rectangle(unfinished, 'box');
  done.filter((one) => !one.box).forEach(point);
  if (corner && !unfinished) point({ x: corner[0], y: corner[1], label: 1 });
  one('[data-do=undo]').disabled = one('[data-do=clear]').disabled = !done.length && !corner;
}

function ask() {
  draw();
  const box = done.findLast((one) => one.box);
  const points = done.filter((one) => !one.box).map(({ x, y, label }) => [x, y, label]);
  trigger('asked', { points, box: box ? box.box : null, number: picture.number, turn: ++turn });
}

function add(what) {
  corner = null;
  done.push(what);
  ask();
}

function choose(chosen) {
  mode = chosen;
  corner = null;
  all('[data-mode]').forEach((b) => b.setAttribute('aria-pressed', b.dataset.mode === mode));
  frame.classList.toggle('boxing', mode === 'box');
  draw();
}

function hint(text, wrong) {
  one('.hint').textContent = text;
  one('.hint').classList.toggle('wrong', Boolean(wrong));
}

async function open(file) {
  if (!file) return;
  hint(`Opening ${file.name} …`);
  try {
    const { path } = await upload(file);
    trigger('opened', { path, name: file.name, turn: ++turn });
  } catch (error) {
    hint(`${file.name} cannot be uploaded; it may be larger than ${props.limit}.`, true);
  }
}

frame.addEventListener('contextmenu', (event) => event.preventDefault());
frame.addEventListener('pointerdown', (event) => {
  if (event.target.closest('.tags button') || (event.button !== 0 && event.button !== 2)) return;
  // A finger scrolls the page unless it draws boxes.
  if (event.pointerType === 'touch' && mode !== 'box') {
    drag = { from: place(event), x: event.clientX, y: event.clientY, touch: true };
    return;
  }
  event.preventDefault();
  frame.setPointerCapture(event.pointerId);
  drag = { from: place(event), x: event.clientX, y: event.clientY, right: event.button === 2 };
});
frame.addEventListener('pointermove', (event) => {
  if (drag) {
    drag.moved ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > SLIP;
    if (drag.moved && !drag.right && !drag.touch) draw(boxOf(drag.from, place(event)));
  } else if (corner) {
    draw(boxOf(corner, place(event)));
  }
});
frame.addEventListener('pointercancel', () => { drag = null; draw(); });
frame.addEventListener('pointerup', (event) => {
  if (!drag) return;
  const { from, moved, right, touch } = drag, to = place(event);
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
  if (button.dataset.mode) choose(button.dataset.mode);
  if (button.dataset.box) add({ box: picture.boxes[Number(button.dataset.box)] });
  if (button.dataset.example) trigger('chosen', { number: Number(button.dataset.example), turn: ++turn });
  if (button.dataset.do === 'clear') { done = []; corner = null; ask(); }
  if (button.dataset.do === 'undo') {
    if (corner) { corner = null; draw(); } else { done.pop(); ask(); }
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

// The photo is decoded first: no click falls between one picture and the size of the next.
async function show() {
  const next = props.value || { boxes: [] };
  if (next.photo) {
    const loading = new Image();
    loading.src = next.photo;
    await loading.decode();
    if (next.number !== props.value.number) return;  // another has come meanwhile
  }
  picture = next;
  done = [];
  corner = null;
  frame.hidden = !picture.photo;
  one('.drop').hidden = Boolean(picture.photo);
  if (picture.photo) photo.src = picture.photo;
  frame.style.setProperty('--ratio', picture.width / picture.height);
  const taken = [];
  tags.replaceChildren(...picture.boxes.map(([x0, y0], number) => {
    const tag = document.createElement('button');
    tag.type = 'button';
    tag.dataset.box = number;
    tag.textContent = number + 1;
    tag.title = 'The box of the ground truth';
    let left = 100 * x0 / picture.width;
    const top = 100 * y0 / picture.height;
    // Boxes that begin at one place have their numbers side by side.
    while (taken.some(([x, y]) => Math.abs(x - left) < 5 && Math.abs(y - top) < 4)) left += 5;
    taken.push([left, top]);
    tag.style.left = `${left}%`;
    tag.style.top = `${top}%`;
    return tag;
  }));
  const truth = picture.boxes.length ? ' A number asks with a box of the ground truth.' : '';
  hint(picture.photo ? `${picture.title} (${picture.width} × ${picture.height}).${truth}` : '');
  draw();
}

one('.examples').replaceChildren(...(props.examples || []).map(({ name, photo: uri }, number) => {
  const button = document.createElement('button');
  button.type = 'button';
  button.dataset.example = number;
  button.title = name;
  const image = document.createElement('img');
  image.src = uri;
  image.alt = name;
  button.append(image);
  return button;
}));
one('.examples').hidden = !(props.examples || []).length;
watch('value', show);
show();
