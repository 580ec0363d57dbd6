// A place for a photograph: drop it, choose it, paste it or take it with the camera; faces are drawn on it.

import { element, message } from "./elements.js";

export class Photo {
  constructor(place, onChange) {
    this.file = null;
    this.image = null;
    this.place = place;
    this.onChange = onChange;
    const label = place.dataset.label;
    const id = `file-${place.dataset.photo}`;
    this.canvas = element("canvas", { role: "img", "aria-label": `${label}: none chosen yet`, hidden: true });
    this.note = element("div", { "aria-live": "polite" });
    this.input = element("input", { id, type: "file", accept: "image/*", onchange: () => this.use(this.input.files[0]) });
    this.camera = element("button", { type: "button", onclick: () => this.startCamera() }, "Use the camera");
    this.camera.setAttribute("aria-label", `${label}: use the camera`);
    place.append(
      element("label", { for: id }, label),
      this.input,
      element("p", { class: "hint" }, "Choose a file, or drop one here."),
      navigator.mediaDevices?.getUserMedia ? this.camera : null,
      this.canvas,
      this.note,
    );
    for (const name of ["dragenter", "dragover"]) {
      place.addEventListener(name, (event) => {
        event.preventDefault();
        place.classList.add("over");
      });
    }
    place.addEventListener("dragleave", () => place.classList.remove("over"));
    place.addEventListener("drop", (event) => {
      event.preventDefault();
      place.classList.remove("over");
      this.use(event.dataTransfer.files[0]);
    });
  }

  get label() {
    return this.place.dataset.label;
  }

  async use(file) {
    if (!file) return;
    this.note.replaceChildren();
    try {
      this.image = await createImageBitmap(file, { imageOrientation: "from-image" });
      this.file = file;
    } catch {
      // The service may read formats that the browser does not; it is asked anyway.
      this.image = null;
      this.file = file;
      this.note.replaceChildren(message("The browser cannot show this file."));
    }
    this.draw([]);
    this.onChange();
  }

  draw(faces) {
    this.canvas.hidden = !this.image;
    if (!this.image) return;
    const { width, height } = this.image;
    const shown = Math.min(1, 1200 / Math.max(width, height));
    this.canvas.width = Math.round(width * shown);
    this.canvas.height = Math.round(height * shown);
    const pen = this.canvas.getContext("2d");
    pen.drawImage(this.image, 0, 0, this.canvas.width, this.canvas.height);
    const found = faces.length === 1 ? "one face marked" : `${faces.length} faces marked`;
    this.canvas.setAttribute("aria-label", `${this.label}${faces.length ? `, ${found}` : ""}`);
    for (const { face, width: ofWidth, text } of faces) {
      const scale = this.canvas.width / ofWidth;
      const [left, top, right, bottom] = face.box.map((side) => side * scale);
      const line = Math.max(2, this.canvas.width / 200);
      for (const [colour, thickness] of [["#000", line * 2], ["#7fd4ff", line]]) {
        pen.strokeStyle = colour;
        pen.lineWidth = thickness;
        pen.strokeRect(left, top, right - left, bottom - top);
      }
      for (const [x, y] of face.landmarks ?? []) {
        pen.fillStyle = "#7fd4ff";
        pen.beginPath();
        pen.arc(x * scale, y * scale, line * 1.2, 0, 7);
        pen.fill();
      }
      if (text) {
        const size = Math.max(14, this.canvas.width / 28);
        pen.font = `600 ${size}px system-ui, sans-serif`;
        pen.lineWidth = size / 5;
        pen.strokeStyle = "#000";
        pen.fillStyle = "#fff";
        const at = [Math.max(2, left), Math.max(size, top - size / 3)];
        pen.strokeText(text, ...at);
        pen.fillText(text, ...at);
      }
    }
  }

  fail(text) {
    this.note.replaceChildren(message(text, "error"));
  }

  clearNote() {
    this.note.replaceChildren();
  }

  async startCamera() {
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
    } catch {
      this.fail("The camera cannot be used: there is none, or the browser was not allowed to.");
      return;
    }
    const video = element("video", { playsinline: true, muted: true, "aria-label": "Picture of the camera" });
    video.srcObject = stream;
    const stop = () => {
      for (const track of stream.getTracks()) track.stop();
      this.note.replaceChildren();
      this.camera.disabled = false;
      this.camera.focus();
    };
    const take = () => {
      const still = element("canvas", { width: video.videoWidth, height: video.videoHeight });
      still.getContext("2d").drawImage(video, 0, 0);
      stop();
      still.toBlob((blob) => this.use(blob), "image/jpeg", 0.95);
    };
    const takeButton = element("button", { type: "button", class: "main-action", onclick: take }, "Take the photograph");
    this.note.replaceChildren(
      video,
      element("div", { class: "row" }, takeButton, element("button", { type: "button", onclick: stop }, "Cancel")),
    );
    this.camera.disabled = true;
    await video.play();
    takeButton.focus();
  }
}
