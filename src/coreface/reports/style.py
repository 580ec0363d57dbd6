"""The frame and the style sheet of a page."""

DOCUMENT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}</main>
</body>
</html>
"""

STYLE = """\
:root { --paper: #fff; --ink: #1b1c1f; --muted: #6a6e76; --line: #e2e4e8; --shade: #f6f7f9; --accent: #1d5fc4; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e6e7ea; --muted: #989da7; --line: #31353d; --shade: #1e2126; --accent: #7db0ff; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: break-word;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%; }
main { max-width: 62rem; margin: 0 auto; padding: clamp(1.25rem, 5vw, 4rem) clamp(1.1rem, 4vw, 2.5rem); }
h1, h2, h3 { line-height: 1.25; font-weight: 600; text-wrap: balance; }
h1 { font-size: clamp(1.6rem, 5vw, 2.2rem); letter-spacing: -.015em; margin: 0 0 1.25rem; }
h2 { font-size: 1.25rem; margin: 0 0 1rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .6rem; }
section { margin-top: 2.75rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }
p { max-width: 44rem; margin: 0 0 .8rem; }
.lead { font-size: 1.075rem; }
.quiet, figcaption, small, .rates :is(i, span), .none { color: var(--muted); font-size: .85rem; line-height: 1.45; }
.wide { overflow-x: auto; margin: 0 0 1.25rem; background: no-repeat right / 2rem 100% local
  linear-gradient(to left, var(--paper) 40%, transparent), no-repeat right / .6rem 100% scroll
  linear-gradient(to left, var(--line), transparent); }
table { border-collapse: collapse; }
th { font-weight: 600; }
th, td { vertical-align: top; padding: .7rem 0 .7rem clamp(1rem, 3vw, 1.75rem); border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
.rates { width: 100%; text-align: right; }
.rates thead > tr > * { padding-block: 0 .5rem; white-space: nowrap; }
.rates :is(th, td):first-child { position: sticky; left: 0; background: var(--paper); }
.rates tbody th { min-width: 6.5rem; max-width: 15rem; }
.rates :is(b, i, small, span) { display: block; font-style: normal; font-weight: 400; white-space: nowrap; }
.rates b { font-size: 1.25rem; line-height: 1.3; }
.rates i { color: var(--ink); margin-bottom: .2rem; }
.rates small { font-size: .8rem; }
.rates.last tbody tr:last-child :is(th, b) { color: var(--accent); font-weight: 600; }
.rates .none { max-width: 9rem; min-width: 7.5rem; }
.figures { font-size: .9rem; text-align: right; }
.figures :is(th, td) { padding-block: .35rem; }
.figures thead th { font-weight: 400; color: var(--muted); vertical-align: bottom; }
.figures tbody th { font-weight: 400; white-space: nowrap; }
.figures td { white-space: nowrap; }
.figures td.quiet { white-space: normal; min-width: 11rem; }
.figures small { display: block; color: var(--muted); }
.facts { font-size: .9rem; text-align: left; }
.facts :is(th, td) { padding-block: .35rem; overflow-wrap: anywhere; }
.facts th { font-weight: 400; color: var(--muted); white-space: nowrap; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr));
  gap: 0 2.5rem; }
figure { margin: 0; }
.panel { display: grid; grid-template-rows: subgrid; grid-row: span 4; row-gap: 0; margin-bottom: 2rem; }
.panel h3 { margin: 0 0 .3rem; }
.panel > svg { display: block; width: 100%; height: auto; overflow: visible; margin: .4rem 0; stroke-linejoin: round; }
.panel svg text { font-family: inherit !important; }
.legend li { overflow-wrap: anywhere; }
.legend { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 0 1.1rem; font-size: .85rem; }
.swatch { width: 22px; height: 8px; margin-right: .45rem; }
.pairs { list-style: none; margin: 0; padding: 0; display: grid; gap: 1.1rem 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); }
.pairs p { margin: 0 0 .3rem; font-size: .85rem; color: var(--muted); }
.pairs b { display: block; color: var(--ink); font-weight: 600; font-size: 1rem; }
.pairs strong { color: var(--accent); font-weight: 600; }
.pairs div { display: grid; grid-template-columns: 1fr 1fr; gap: 3px; }
.pairs img { display: block; width: 100%; height: auto; border-radius: 3px; }
.pairs figcaption { font-size: .75rem; overflow-wrap: anywhere; padding-top: .2rem; }
.findings { list-style: none; margin: 0; padding: 0; display: grid; gap: 1.5rem; }
.findings p { margin: 0 0 .3rem; font-size: .9rem; }
.findings div { display: flex; flex-wrap: wrap; gap: .75rem 2rem; }
.findings img { height: 6rem; width: auto; border-radius: 3px; margin-right: 3px; }
.findings.faces div { gap: .5rem; }
.findings.faces img { margin: 0; }
pre { margin: 0; padding: 1rem 1.1rem; background: var(--shade); border-radius: 6px; overflow-x: auto;
  font: .8rem/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
@media print {
  html { font-size: 11px; }
  main { padding: 0; max-width: none; }
  section { margin-top: 1.5rem; }
  h2, h3 { break-after: avoid; }
  figure, tr, .pairs li, .findings li { break-inside: avoid; }
  .wide, pre { overflow: visible; background: none; }
  .rates :is(th, td):first-child { position: static; }
  pre { white-space: pre-wrap; }
  .panels { grid-template-columns: 1fr 1fr; }
}
"""
