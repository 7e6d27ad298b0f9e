"""How the page looks: its style sheet and its Jinja template, which `page.write_page` fills."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --back: #f6f8fa; --ink: #1f2933; --muted: #5d6a78; --line: #dfe5eb;
  --accent: #0072b2; --warn: #fff4dc; --warn-line: #e69f00; }
@media (prefers-color-scheme: dark) { :root { --paper: #1b2229; --back: #12171c; --ink: #e4e9ee; --muted: #9aa7b4;
  --line: #313b45; --accent: #56b4e9; --warn: #33290f; --warn-line: #b07a00; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
.layout { display: grid; grid-template-columns: 15rem minmax(0, 1fr); gap: 2rem; max-width: 82rem; margin: 0 auto;
  padding: 2.5rem 1.5rem; }
header { grid-column: 1 / -1; border-bottom: 1px solid var(--line); padding-bottom: 1.2rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
header p { margin: .3rem 0 0; color: var(--muted); }
nav { position: sticky; top: 1.5rem; align-self: start; font-size: .92rem; max-height: 92vh; overflow-y: auto; }
nav h2 { font-size: .75rem; letter-spacing: .08em; text-transform: uppercase; color: var(--muted); margin: 0 0 .5rem; }
nav ol { list-style: none; margin: 0; padding: 0; border-left: 2px solid var(--line); }
nav a { display: block; padding: .25rem .9rem; color: var(--ink); text-decoration: none; overflow-wrap: anywhere; }
nav ol ol { border: 0; margin-left: .9rem; font-size: .92em; }
nav ol ol a { padding: .12rem .9rem; color: var(--muted); }
nav a:hover { color: var(--accent); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 1.5rem 1.75rem;
  margin-bottom: 1.5rem; scroll-margin-top: 1rem; }
h3 { font-size: 1.08rem; margin: 0 0 .6rem; overflow-wrap: anywhere; }
.part { border-top: 1px solid var(--line); padding-top: 1.2rem; margin-top: 1.6rem; scroll-margin-top: 1rem; }
section > h2 { font-size: 1.35rem; margin: 0 0 .6rem; overflow-wrap: anywhere; }
p { margin: 0 0 .9rem; color: var(--muted); max-width: 46rem; overflow-wrap: anywhere; }
.notice { background: var(--warn); border-left: 4px solid var(--warn-line); color: var(--ink); border-radius: 6px;
  padding: .6rem 1rem; }
.scroll { overflow-x: auto; margin: 0 0 1.4rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 .4rem; white-space: nowrap; }
th, td { padding: .4rem .9rem; text-align: left; border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 600; font-size: .84rem; border-bottom-width: 2px; }
th:first-child, td:first-child { padding-left: .2rem; }
tbody tr:hover { background: var(--back); }
.number { text-align: right; white-space: nowrap; }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
figure { margin: 0; max-width: 100%; }
figure p { margin: .5rem 0 0; font-size: .86rem; max-width: 40rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.2rem; margin-top: .4rem; }
.card { font-size: .86rem; }
.card img { width: 100%; padding: 0; border-radius: 6px; }
.card p { margin: .25rem 0 0; }
.card p:first-of-type { color: var(--ink); font-weight: 600; }
.missing { border: 1px dashed var(--line); border-radius: 6px; padding: 1.6rem .8rem; text-align: center; }
figcaption { font-size: .92rem; font-weight: 600; margin-bottom: .5rem; }
img, video { display: block; max-width: 100%; height: auto; border-radius: 8px; }
video { width: 40rem; }
@media (prefers-color-scheme: dark) { figure img { background: #fff; padding: 8px; } }
details { margin-top: 1.2rem; }
summary { cursor: pointer; font-weight: 600; font-size: .92rem; }
pre { overflow-x: auto; background: var(--back); border-radius: 8px; padding: 1rem; font-size: .82rem; line-height: 1.45; }
@media (max-width: 60rem) { .layout { grid-template-columns: minmax(0, 1fr); padding: 1.2rem .8rem; gap: 1.2rem; }
  nav { position: static; max-height: none; } section { padding: 1rem; } }
@media print { nav { display: none; } .layout { display: block; } section { break-inside: avoid; border: 0; } }
"""

TEMPLATE = """{% macro contents(section) %}
{% for paragraph in section.paragraphs %}
<p>{{ paragraph }}</p>
{% endfor %}
{% if section.notice %}
<p class="notice" role="note">{{ section.notice }}</p>
{% endif %}
{% for caption, header, rows in section.tables if rows %}
<div class="scroll"><table>
<caption>{{ caption }}</caption>
<thead><tr>
{% for name in header %}<th scope="col"{% if rows[0][loop.index0][1] %} class="number"{% endif %}>{{ name }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in rows %}
<tr>{% for text, number in row %}<td{% if number %} class="number"{% endif %}>{{ text }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
{% endfor %}
{% if section.figures %}
<div class="figures">
{% for figure in section.figures %}
<figure><figcaption>{{ figure.caption }}</figcaption>
{% if figure.film %}
<video src="{{ figure.uri }}" aria-label="{{ figure.alt }}" controls loop muted playsinline></video>
{% else %}
<img src="{{ figure.uri }}" alt="{{ figure.alt }}"{% if figure.width_px %} width="{{ figure.width_px }}"{% endif %}>
{% endif %}
{% if figure.note %}
<p>{{ figure.note }}</p>
{% endif %}
</figure>
{% endfor %}
</div>
{% endif %}
{% if section.cards %}
<div class="cards">
{% for card, uri in section.cards %}
<div class="card">
{% if uri %}
<img src="{{ uri }}" alt="{{ card.alt }}">
{% else %}
<div class="missing" role="img" aria-label="{{ card.alt }}">no picture</div>
{% endif %}
{% for line in card.lines %}
<p>{{ line }}</p>
{% endfor %}
</div>
{% endfor %}
</div>
{% endif %}
{% for caption, text in section.details.items() %}
<details><summary>{{ caption }}</summary><pre>{{ text }}</pre></details>
{% endfor %}
{% endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<div class="layout">
<header><h1>{{ title }}</h1>{% if subtitle %}<p>{{ subtitle }}</p>{% endif %}</header>
<nav aria-label="Contents"><h2>Contents</h2><ol>
{% for section in sections %}
<li><a href="#{{ section.id }}">{{ section.heading }}</a>
{% if section.parts %}
<ol>{% for part in section.parts %}<li><a href="#{{ part.id }}">{{ part.heading }}</a></li>{% endfor %}</ol>
{% endif %}
</li>
{% endfor %}
</ol></nav>
<main>
{% for section in sections %}
<section id="{{ section.id }}">
<h2>{{ section.heading }}</h2>
{{ contents(section) }}
{% for part in section.parts %}
<div class="part" id="{{ part.id }}">
<h3>{{ part.heading }}</h3>
{{ contents(part) }}
</div>
{% endfor %}
</section>
{% endfor %}
</main>
</div>
</body>
</html>
"""
