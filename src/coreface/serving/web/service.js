// Requests to the service, and its errors in plain words.

let key = null; // in memory only: another tab, or this one after a reload, does not have it

export function useKey(text) {
  key = text || null;
}

export class ServiceError extends Error {
  constructor(message, code, problem = {}) {
    super(message);
    this.code = code;
    this.field = problem.field;
    this.problem = problem;
  }
}

const WORDS = {
  "key-required": "This service needs a key.",
  "key-refused": "The service does not know this key.",
  "role-insufficient": "Your key does not allow this.",
  "no-face": "no face was found. Take a photograph in which the face is seen from the front and well lit.",
  "several-faces": "there is more than one face.",
  "small-face": "the face is too small. Take a photograph from nearby, or crop it less.",
  "odd-landmarks": "the face cannot be used: it is seen too much from the side, or covered.",
  "unreadable-image": "the file cannot be read as an image. Use a JPEG or PNG file.",
  "image-too-large": "the image is too large.",
  "body-too-large": "the images are too large together.",
  "busy": "The service is busy. Try again in a moment.",
  "too-slow": "The answer took too long. Try again in a moment.",
  "rate-limited": "Too many requests. Wait a little.",
  "too-many-attempts": "Too many wrong keys. Wait a little.",
  "person-exists": "There is a person of this id already.",
  "unknown-person": "This person is not in the gallery any more.",
  "resembles-another": "resembles somebody who is enrolled already.",
  "storage-failed": "The gallery cannot be read or written now. Try again in a moment.",
  "no-calibration": "The service has no calibration for its model, so it cannot decide.",
};
const OF_AN_IMAGE = new Set(["no-face", "several-faces", "small-face", "odd-landmarks", "unreadable-image", "image-too-large"]);

export function inWords(code, detail) {
  return WORDS[code] ?? detail;
}

export async function call(method, path, { form, json, names = {} } = {}) {
  const headers = { "X-Coreface": "1" };
  if (key) headers.Authorization = `Bearer ${key}`;
  if (json) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: form ?? (json && JSON.stringify(json)), cache: "no-store" });
  } catch {
    throw new ServiceError("The service cannot be reached. Is it running?", "unreachable");
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // not of the service itself, a proxy's for example
  }
  let message = inWords(problem.code, problem.detail ?? `The service answered with status ${response.status}.`);
  if (OF_AN_IMAGE.has(problem.code) && names[problem.field]) message = `${names[problem.field]}: ${message}`;
  throw new ServiceError(message, problem.code, problem);
}
