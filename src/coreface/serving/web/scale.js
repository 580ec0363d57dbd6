// The score on a scale, with the scores of pairs of one person and of different people.

import { drawing, element } from "./elements.js";

const WIDTH = 640;
const HEIGHT = 190;
const BASE = 150;
const TOP = 34;

export function scale(score, threshold, scores) {
  const x = (cosine) => 20 + ((cosine + 1) / 2) * (WIDTH - 40);
  const picture = drawing("svg", {
    class: "scale",
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    role: "img",
    "aria-label": describe(score, threshold),
  });
  if (scores) {
    const highest = Math.max(...scores.genuine, ...scores.impostor);
    for (const kind of ["impostor", "genuine"]) {
      const points = scores[kind].map((share, bin) => {
        const middle = (scores.edges[bin] + scores.edges[bin + 1]) / 2;
        return `${x(middle).toFixed(1)},${(BASE - (share / highest) * (BASE - TOP)).toFixed(1)}`;
      });
      const outline = [`${x(-1)},${BASE}`, ...points, `${x(1)},${BASE}`].join(" ");
      picture.append(drawing("polygon", { class: kind, points: outline }));
    }
  }
  picture.append(drawing("line", { class: "axis", x1: x(-1), x2: x(1), y1: BASE, y2: BASE }));
  for (const cosine of [-1, -0.5, 0, 0.5, 1]) {
    picture.append(drawing("text", { x: x(cosine), y: BASE + 18, "text-anchor": "middle" }, `${cosine}`));
  }
  if (threshold !== null) mark(picture, "threshold", x(threshold), TOP - 6, `threshold ${threshold.toFixed(3)}`, BASE + 35);
  mark(picture, "score", x(score), TOP - 14, `score ${score.toFixed(3)}`, 15);
  const legend = scores && element(
    "p",
    { class: "hint" },
    element("span", { class: "key-impostor" }, "pairs of different people"),
    " ",
    element("span", { class: "key-genuine" }, "pairs of one person"),
    " (each drawn as shares of its own pairs)",
  );
  return element("div", {}, picture, legend);
}

function mark(picture, kind, x, top, text, textY) {
  picture.append(drawing("line", { class: kind, x1: x, x2: x, y1: top, y2: BASE + 4 }));
  const anchor = x > WIDTH - 120 ? "end" : x < 120 ? "start" : "middle";
  picture.append(drawing("text", { x, y: textY, "text-anchor": anchor }, text));
}

function describe(score, threshold) {
  if (threshold === null) return `Scale from -1 to 1: the score is ${score.toFixed(3)}.`;
  const side = score >= threshold ? "at or above" : "below";
  return `Scale from -1 to 1: the score ${score.toFixed(3)} is ${side} the threshold ${threshold.toFixed(3)}.`;
}
