// The image with its mask and prompt, and what mouse, finger and keys do to it.
// Points are [x, y] and boxes [x0, y0, x1, y1], in pixels of the image.

import { drawMasks } from "./pixels.js";

const SHOWN = 1024; // pixels of the longer side of what is drawn
const DRAG = 6; // CSS pixels from which on a press is a box
const STEP = 0.02, FINE = 0.004; // of the longer side, that an arrow key moves
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export const empty = (prompt) => !prompt.box && !prompt.points.length;

export class Stage {
  /**
   * on: {point(place, turned), box(corners), preview(place or null), undo(), clear()}, called with
   * what was meant. turned: with a modifier, or the right button.
   */
  constructor(element, on) {
    this.element = element;
    this.on = on;
    [this.photo, this.mask] = element.querySelectorAll("canvas");
    this.marks = element.querySelector("#marks");
    this.forget();
    element.classList.add("empty");
    element.addEventListener("pointerdown", (event) => this.press(event));
    element.addEventListener("pointermove", (event) => this.move(event));
    element.addEventListener("pointerup", (event) => this.release(event));
    element.addEventListener("pointercancel", () => this.abandon());
    element.addEventListener("pointerleave", () => this.size && this.on.preview(null));
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    element.addEventListener("keydown", (event) => this.key(event));
    element.addEventListener("blur", () => this.setCross(null));
  }

  forget() {
    this.size = null; // [height, width] of the image
    this.pressed = null; // {place, x, y, turned} of a pointer that is down
    this.corner = null; // the first of a box by keys
    this.cross = null;
    this.prompt = { points: [], box: null };
  }

  /** Shows an image, see `readImage`, without mask or prompt. */
  show({ size, bitmap }) {
    this.forget();
    this.size = size;
    const scale = SHOWN / Math.max(...size);
    this.shown = size.map((side) => Math.max(1, Math.round(side * scale)));
    for (const canvas of [this.photo, this.mask]) [canvas.height, canvas.width] = this.shown;
    const context = this.photo.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, this.shown[1], this.shown[0]);
    this.element.parentElement.style.setProperty("--ratio", size[1] / size[0]);
    this.element.classList.remove("empty");
    this.draw();
  }

  /** Draws masks of size `shown`, see `drawMasks`. */
  showMasks(masks, preview = false) {
    drawMasks(this.mask.getContext("2d"), masks, this.shown);
    this.mask.classList.toggle("preview", preview);
  }

  /** Draws the points and the box of a prompt, see `tokens`. */
  showPrompt(prompt) {
    this.prompt = prompt;
    this.draw();
  }

  draw(box = this.prompt.box) {
    const [height, width] = this.size;
    const percent = (value, side) => `${(100 * value) / side}%`;
    const put = (kind, x, y) => {
      const mark = this.marks.appendChild(document.createElement("div"));
      mark.className = kind;
      mark.style.left = percent(x, width);
      mark.style.top = percent(y, height);
      [mark.dataset.x, mark.dataset.y] = [x, y];
      return mark;
    };
    this.marks.replaceChildren();
    if (box) {
      const mark = put("box", box[0], box[1]);
      mark.style.width = percent(box[2] - box[0], width);
      mark.style.height = percent(box[3] - box[1], height);
      mark.dataset.box = JSON.stringify(box);
    }
    for (const { x, y, label } of this.prompt.points) put(label ? "point object" : "point other", x, y);
    if (this.cross) put("cross", ...this.cross);
  }

  place({ clientX, clientY }) {
    const { left, top, width, height } = this.element.getBoundingClientRect();
    return this.inside([
      ((clientX - left) / width) * this.size[1],
      ((clientY - top) / height) * this.size[0],
    ]);
  }

  inside([x, y]) {
    return [Math.min(Math.max(x, 0), this.size[1]), Math.min(Math.max(y, 0), this.size[0])];
  }

  press(event) {
    if (!this.size || event.button === 1 || this.pressed) return;
    this.element.setPointerCapture(event.pointerId);
    const turned = event.button === 2 || event.shiftKey || event.altKey;
    this.pressed = { place: this.place(event), x: event.clientX, y: event.clientY, turned };
  }

  move(event) {
    if (!this.size) return;
    if (this.pressed) this.draw(this.dragged(event) ?? this.prompt.box);
    else if (event.pointerType === "mouse") this.on.preview(this.place(event));
  }

  release(event) {
    if (!this.pressed) return;
    const { place, turned } = this.pressed;
    const box = this.dragged(event);
    this.abandon();
    if (box) this.on.box(box);
    else this.on.point(place, turned);
  }

  abandon() {
    this.pressed = null;
    if (this.size) this.draw();
  }

  /** The box between where the pointer went down and where it is; null for a press on the spot. */
  dragged(event) {
    const { place, x, y } = this.pressed;
    const far = Math.hypot(event.clientX - x, event.clientY - y) >= DRAG;
    return far ? boxBetween(place, this.place(event)) : null;
  }

  setCross(place) {
    if (!place) this.corner = null;
    this.cross = place;
    if (this.size) this.draw(this.corner && place ? boxBetween(this.corner, place) : undefined);
  }

  key(event) {
    if (!this.size || event.ctrlKey || event.metaKey) return;
    const arrow = ARROWS[event.key];
    const [x, y] = this.cross ?? [this.size[1] / 2, this.size[0] / 2];
    if (arrow) {
      const step = Math.max(...this.size) * (event.altKey ? FINE : STEP);
      this.setCross(this.cross ? this.inside([x + arrow[0] * step, y + arrow[1] * step]) : [x, y]);
      this.on.preview(this.corner ? null : this.cross);
    } else if (event.key === "Enter" && this.cross && !this.corner) {
      this.on.point(this.cross, event.shiftKey);
    } else if ((event.key === "b" || event.key === "Enter") && this.cross) {
      this.setCorner();
    } else if (event.key === "u") this.on.undo();
    else if (event.key === "Escape") this.escape();
    else return;
    event.preventDefault();
  }

  setCorner() {
    const box = this.corner && boxBetween(this.corner, this.cross);
    this.corner = this.corner ? null : this.cross;
    this.on.preview(null);
    if (box && box[2] > box[0] && box[3] > box[1]) this.on.box(box);
  }

  escape() {
    const begun = this.corner || this.pressed;
    this.corner = null;
    this.abandon();
    if (!begun) this.on.clear();
  }
}

function boxBetween([x, y], [otherX, otherY]) {
  return [Math.min(x, otherX), Math.min(y, otherY), Math.max(x, otherX), Math.max(y, otherY)];
}
