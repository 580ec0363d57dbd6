// Who is in a photograph.

import { element, message } from "./elements.js";
import { Photo } from "./photo.js";
import { oneIn } from "./rates.js";
import { call } from "./service.js";

export function identifySection() {
  const button = document.getElementById("identify-button");
  const result = document.getElementById("identify-result");
  const photo = new Photo(document.querySelector("#identify .photo"), () => {
    result.replaceChildren();
    button.disabled = !photo.file;
  });

  button.addEventListener("click", async () => {
    button.disabled = true;
    photo.clearNote();
    result.replaceChildren(message("Searching …"));
    const form = new FormData();
    form.append("image", photo.file, "image");
    form.append("fpir", document.getElementById("fpir").value);
    try {
      const answer = await call("POST", "/v1/identify", { form, names: { image: photo.label } });
      photo.draw(answer.faces.map((face, number) => ({ face: face.face, width: answer.width, text: `${number + 1}` })));
      result.replaceChildren(...report(answer));
    } catch (error) {
      photo.draw([]);
      result.replaceChildren(message(error.message, "error"));
    }
    button.disabled = false;
  });
}

function report(answer) {
  if (answer.gallery_size === 0) return [message("Nobody is enrolled yet: enrol somebody under People.")];
  return [
    ...answer.faces.flatMap((face, number) => [
      element("p", { class: `verdict ${face.decision === "person" ? "good" : ""}` }, `Face ${number + 1}: ${verdict(face)}`),
      candidates(face),
    ]),
    element("p", { class: "hint" }, thresholdWords(answer)),
  ];
}

function verdict(face) {
  if (face.decision === "person") {
    const found = face.candidates.find((candidate) => candidate.person === face.person);
    return `probably ${found?.name ?? face.person}`;
  }
  return face.decision === "unknown" ? "nobody who is enrolled" : "the calibration cannot decide at this rate";
}

function candidates(face) {
  const rows = face.candidates.map((candidate) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, candidate.name),
      element("td", {}, candidate.score.toFixed(3)),
      element("td", {}, candidate.fpir === null ? "" : candidate.fpir === 0 ? "none seen" : oneIn(candidate.fpir)),
    ),
  );
  const heads = ["Most similar", "Score", "Searches of unknown people that score as high"];
  return element(
    "div",
    { class: "wide", tabindex: "0", role: "region", "aria-label": "Most similar people" },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)))),
      element("tbody", {}, ...rows),
    ),
  );
}

function thresholdWords(answer) {
  const people = `${answer.gallery_size} enrolled ${answer.gallery_size === 1 ? "person" : "people"}`;
  if (answer.threshold === null) return `Searched among ${people}.`;
  const rough = answer.standing === "marked" ? " The rate is rough: the calibration is small for it." : "";
  return `Searched among ${people}, with a threshold of ${answer.threshold.toFixed(3)} for this number.${rough}`;
}
