// What the service is, what it knows of its errors, what it does not do.

import { element } from "./elements.js";
import { oneIn } from "./rates.js";

export function aboutSection(info) {
  const { model, calibration, limits } = info;
  document.getElementById("about-content").replaceChildren(
    element("h3", {}, "Model"),
    terms([
      ["Encoder", model.name],
      ["Detector", model.detector],
      ["Licence", model.licence],
      ["Training data", model.training_data],
      ["Note", model.note],
      ["Version of coreface", info.version],
    ]),
    element("h3", {}, "Calibration"),
    ...(calibration ? rates(calibration) : [element("p", {}, `None: ${info.no_calibration}.`)]),
    element("h3", {}, "What it does not do"),
    element("ul", {}, ...info.not_done.map((text) => element("li", {}, text))),
    element("h3", {}, "Limits"),
    terms([
      ["Image", `${Math.round(limits.image_bytes / 2 ** 20)} MB, ${(limits.image_pixels / 1e6).toFixed(0)} million pixels`],
      ["Images at once", `${limits.images}`],
      ["Smallest face", `${limits.min_eyes} pixels between the eyes`],
      ["Time for an answer", `${limits.seconds} s`],
    ]),
    element("p", { class: "hint" }, "Photographs are compared and forgotten: the service does not store or log them."),
  );
}

function terms(rows) {
  const shown = rows.filter(([, text]) => text);
  return element("dl", {}, ...shown.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
}

function rates(calibration) {
  const people = calibration.identities ? `${calibration.identities.toLocaleString("en")} people, ` : "";
  const pairs = `${people}${calibration.genuine_pairs.toLocaleString("en")} pairs of one person and ` +
    `${calibration.impostor_pairs.toLocaleString("en")} pairs of different people.`;
  const rows = calibration.thresholds.map((row) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, oneIn(row.target)),
      element("td", {}, row.threshold === null ? "not resolvable" : row.threshold.toFixed(3)),
      element("td", {}, row.fnmr === null ? "" : `${(100 * row.fnmr).toFixed(1)} %`),
      element("td", {}, row.standing),
    ),
  );
  const heads = ["False matches", "Threshold", "Missed pairs of one person", "Standing"];
  return [
    element("p", {}, pairs),
    element(
      "div",
      { class: "wide", tabindex: "0", role: "region", "aria-label": "Thresholds" },
      element(
        "table",
        {},
        element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)))),
        element("tbody", {}, ...rows),
      ),
    ),
  ];
}
