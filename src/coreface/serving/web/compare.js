// Compare two photographs.

import { element, message } from "./elements.js";
import { Photo } from "./photo.js";
import { oneIn } from "./rates.js";
import { scale } from "./scale.js";
import { call } from "./service.js";

export function compareSection(info) {
  const section = document.getElementById("compare");
  const button = document.getElementById("compare-button");
  const result = document.getElementById("compare-result");
  const [a, b] = [...section.querySelectorAll(".photo")].map((place) => new Photo(place, changed));

  function changed() {
    result.replaceChildren();
    button.disabled = !(a.file && b.file);
  }

  button.addEventListener("click", async () => {
    button.disabled = true;
    a.clearNote();
    b.clearNote();
    result.replaceChildren(message("Comparing …"));
    const form = new FormData();
    form.append("a", a.file, "a");
    form.append("b", b.file, "b");
    form.append("fmr", document.getElementById("fmr").value);
    try {
      const answer = await call("POST", "/v1/verify", { form, names: { a: a.label, b: b.label } });
      a.draw([answer.photographs[0]]);
      b.draw([answer.photographs[1]]);
      result.replaceChildren(...report(answer, info()?.calibration));
    } catch (error) {
      const failed = { a, b }[error.field];
      failed?.draw([]);
      result.replaceChildren(message(error.message, "error"));
    }
    button.disabled = false;
  });
}

function report(answer, calibration) {
  const [words, kind] =
    answer.match === null
      ? ["The calibration cannot decide at this rate.", ""]
      : answer.match
        ? ["The photographs match: probably the same person.", "good"]
        : ["The photographs do not match: probably different people.", "bad"];
  return [
    element("p", { class: `verdict ${kind}` }, words),
    scale(answer.score, answer.threshold, calibration?.scores),
    ...[scoreWords(answer, calibration), thresholdWords(answer), standingWords(answer)]
      .filter(Boolean)
      .map((text) => element("p", {}, text)),
  ];
}

function scoreWords(answer, calibration) {
  if (answer.score_fmr === null || !calibration) return null;
  if (answer.score_fmr === 0) {
    const pairs = calibration.impostor_pairs.toLocaleString("en");
    return `None of the ${pairs} pairs of different people in the calibration scored as high as these photographs.`;
  }
  return `Of pairs of different people in the calibration, ${oneIn(answer.score_fmr)} scored as high as these photographs.`;
}

function thresholdWords(answer) {
  if (answer.fmr === null) return null;
  const interval =
    answer.fmr_low === null ? "" : ` (95 % interval: ${oneIn(answer.fmr_high)} to ${oneIn(answer.fmr_low)})`;
  return `At this threshold, ${oneIn(answer.fmr)} pairs of different people would be called a match by mistake${interval}.`;
}

function standingWords(answer) {
  if (answer.standing === "marked") return "This rate is rough: it rests on fewer than 30 false matches of the calibration.";
  if (answer.standing === "undecidable") return "Choose a rate that is less strict, or calibrate on more people.";
  return null;
}
