// Rates as people read them: one in so many.

export function oneIn(rate) {
  if (rate >= 0.995) return "all";
  if (rate > 0.5) return `${(rate * 100).toFixed(0)} in 100`;
  const number = 1 / rate;
  const digits = 10 ** Math.max(0, Math.floor(Math.log10(number)) - 1); // two significant digits
  return `1 in ${(Math.round(number / digits) * digits).toLocaleString("en")}`;
}
