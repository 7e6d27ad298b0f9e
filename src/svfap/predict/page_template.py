"""How the page of affect over time looks: what `affect_page` adds to the style of all pages, and its Jinja template."""

from __future__ import annotations

AFFECT_STYLE = """
.lane { position: relative; margin: 1rem 0 .2rem; touch-action: pan-y; cursor: crosshair; user-select: none; }
.strip { display: flex; gap: 2px; overflow-x: auto; margin-left: 44px; height: 74px; }
.strip img { height: 74px; border-radius: 3px; object-fit: cover; flex: none; }
.lane.live .strip { position: relative; overflow: hidden; background: var(--back); border-radius: 4px; }
.lane.live .strip img { position: absolute; top: 0; display: none; }
svg.plot { display: block; width: 100%; height: 250px; margin-top: 4px; border-radius: 6px; }
svg.plot:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; }
svg text { fill: var(--muted); font-size: 11.5px; font-variant-numeric: tabular-nums; }
svg .gap { fill: var(--back); }
svg .covered { fill: var(--paper); }
svg .rule { stroke: var(--line); }
svg .apart { stroke: var(--paper); stroke-width: .8; stroke-linejoin: round; }
svg .over { stroke: var(--ink); opacity: .14; }
svg .change { fill: var(--ink); }
svg .drag { fill: var(--accent); opacity: .22; }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.cursor { position: absolute; top: 0; bottom: 26px; width: 0; border-left: 1.5px solid var(--ink); pointer-events: none; }
.cursor.pinned { border-left-width: 2.5px; border-color: var(--accent); }
.tip { position: absolute; z-index: 3; top: 84px; min-width: 13rem; max-width: 19rem; pointer-events: none; padding: .6rem .8rem;
  background: var(--paper); border: 1px solid var(--line); border-radius: 8px; box-shadow: 0 6px 24px rgb(0 0 0 / .22);
  font-size: .82rem; line-height: 1.45; }
.tip img { height: 88px; border-radius: 5px; margin-bottom: .4rem; }
.tip .when { font-weight: 600; font-size: .95rem; }
.tip .small { color: var(--muted); font-size: .76rem; margin-bottom: .3rem; }
.tip .value { display: grid; grid-template-columns: minmax(0, 1fr) 4.5rem 3.4rem; gap: .5rem; align-items: center; }
.tip .value b { font-weight: 400; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.tip .value.top b { font-weight: 600; }
.tip .value.plain { grid-template-columns: .7rem minmax(0, 1fr) 3.8rem; }
.tip .value span:last-child { text-align: right; font-variant-numeric: tabular-nums; }
.bar { display: block; height: .55rem; border-radius: 3px; background: var(--back); overflow: hidden; }
.bar i { display: block; height: 100%; }
.swatch { display: inline-block; width: .7rem; height: .7rem; border-radius: 3px; margin-right: .45rem; vertical-align: -.04rem; }
.legend { display: flex; flex-wrap: wrap; gap: .35rem; margin: 0 0 1.2rem 44px; align-items: center; }
button { font: inherit; font-size: .84rem; color: var(--ink); background: none; border: 1px solid var(--line);
  border-radius: 999px; padding: .12rem .7rem; cursor: pointer; }
button:hover, button[aria-pressed=true] { border-color: var(--accent); background: var(--back); }
button:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.legend .help { color: var(--muted); font-size: .78rem; margin-left: auto; }
.legend .whole { border-color: var(--accent); color: var(--accent); }
[hidden] { display: none !important; }
.split { display: grid; grid-template-columns: minmax(17rem, 5fr) minmax(20rem, 6fr); gap: 2rem; align-items: start; }
.split h4 { margin: 0 0 .5rem; font-size: .95rem; }
.total { display: flex; height: 1.1rem; border-radius: 5px; overflow: hidden; margin-bottom: .6rem; background: var(--back); }
.split table { width: 100%; }
.split th, .split td { padding: .22rem .5rem; }
.split td:first-child { overflow-wrap: anywhere; }
.change { display: flex; gap: .7rem; align-items: center; padding: .4rem 0; border-bottom: 1px solid var(--line);
  font-size: .84rem; }
.change:last-child { border: 0; }
.change button { min-width: 5.2rem; font-variant-numeric: tabular-nums; }
.change figure { display: flex; gap: .25rem; align-items: center; color: var(--muted); }
.change img { height: 62px; border-radius: 4px; padding: 0; background: none; }
.change small { display: block; color: var(--muted); }
.part > p { max-width: none; font-size: .9rem; margin-bottom: .4rem; }
.rows { margin-top: .8rem; }
.rows table { margin-top: .6rem; font-size: .82rem; }
@media (max-width: 60rem) { .split { grid-template-columns: minmax(0, 1fr); } .legend .help { display: none; } }
@media print { .legend .help, .rows, .cursor, .tip { display: none; } .part { break-inside: avoid; } }
"""

AFFECT_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src 'sha256-{{ script_hash }}'">
<title>{{ title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<div class="layout">
<header><h1>{{ title }}</h1>
{% for note in notes %}
<p>{{ note }}</p>
{% endfor %}
</header>
<nav aria-label="Contents"><h2>Contents</h2><ol>
{% for video in videos %}
<li><a href="#{{ video.id }}">{{ video.heading }}</a>
{% if video.persons %}
<ol>{% for person in video.persons %}<li><a href="#{{ person.id }}">{{ person.heading }}</a></li>{% endfor %}</ol>
{% endif %}
</li>
{% endfor %}
<li><a href="#meaning">What the numbers mean</a></li>
</ol></nav>
<main>
<noscript><p class="notice">The timelines need JavaScript; shares, changes and pictures are there without it.</p></noscript>
{% for video in videos %}
<section id="{{ video.id }}">
<h2>{{ video.heading }}</h2>
{% for notice in video.notices %}
<p class="notice" role="note">{{ notice }}</p>
{% endfor %}
{% if not video.persons %}
<p>No face was found in this video.</p>
{% endif %}
{% for person in video.persons %}
<div class="part" id="{{ person.id }}">
<h3>{{ person.heading }}</h3>
<p>{{ person.facts }}</p>
<div class="lane">
{% if person.strip %}
<div class="strip">{% for time_s, clock, uri in person.strip %}
<img src="{{ uri }}" alt="{{ person.heading }} at {{ clock }}" data-time="{{ time_s }}" draggable="false">{% endfor %}</div>
{% endif %}
<svg class="plot" tabindex="0" role="slider" aria-label="Timeline of {{ person.heading }}"></svg>
</div>
<div class="legend">
{% for name in names %}
<button type="button" data-label="{{ loop.index0 }}" aria-pressed="false"><span class="swatch" \
style="background:{{ colors[loop.index0] }}"></span>{{ name }}</button>
{% endfor %}
<button type="button" class="whole" hidden>Whole video</button>
<span class="help">Drag to zoom · click to pin · ← → to step</span>
</div>
<div class="split">
<div>
{% if probabilities %}
<h4>Most probable label, share of time</h4>
<div class="total" aria-hidden="true">{% for row in person.summary %}{% if row.share %}
<i style="width:{{ '%.3f' | format(100 * row.share) }}%;background:{{ colors[loop.index0] }}"></i>{% endif %}{% endfor %}
</div>
<table><thead><tr><th scope="col">Label</th><th scope="col" class="number">Share</th><th scope="col" class="number">Seconds</th>\
<th scope="col" class="number">Mean prob.</th></tr></thead><tbody>
{% for row in person.summary %}
<tr><td><span class="swatch" style="background:{{ colors[loop.index0] }}"></span>{{ row.name }}</td>\
<td class="number">{{ '%.1f' | format(100 * row.share) }}%</td><td class="number">{{ '%.1f' | format(row.time_s) }}</td>\
<td class="number">{{ '%.3f' | format(row.mean) }}</td></tr>
{% endfor %}
</tbody></table>
{% else %}
<h4>Over the time in view</h4>
<table><thead><tr><th scope="col">Dimension</th><th scope="col" class="number">Mean</th><th scope="col" class="number">SD</th>\
<th scope="col" class="number">Min</th><th scope="col" class="number">Max</th></tr></thead><tbody>
{% for row in person.summary %}
<tr><td><span class="swatch" style="background:{{ colors[loop.index0] }}"></span>{{ row.name }}</td>\
{% for value in (row.mean, row.sd, row.min, row.max) %}<td class="number">{{ '%.3f' | format(value) }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table>
{% endif %}
</div>
{% if person.changes %}
<div>
<h4>Strongest changes</h4>
{% for change in person.changes %}
<div class="change">
<button type="button" data-goto="{{ change.time_s }}">{{ change.clock }}</button>
{% if change.sides[0][2] or change.sides[1][2] %}
<figure>{% for text, clock, uri in change.sides %}{% if uri %}<img src="{{ uri }}" alt="{{ person.heading }} at {{ clock }}">\
{% endif %}{% if loop.first %}<span aria-hidden="true">→</span>{% endif %}{% endfor %}</figure>
{% endif %}
<div>{{ change.sides[0][0] }} → {{ change.sides[1][0] }}<small>\
{{ 'total variation' if probabilities else 'mean difference' }} {{ change.distance }}</small></div>
</div>
{% endfor %}
</div>
{% endif %}
</div>
<details class="rows"><summary>Rows</summary><button type="button" class="save">Save all as CSV</button>
<div class="scroll"></div></details>
</div>
{% endfor %}
</section>
{% endfor %}
<section id="meaning">
<h2>What the numbers mean</h2>
<p>{{ meaning }}</p>
<p>A person is one track of a face: who leaves the picture or comes back after a cut counts as a new person. Time that no row
covers is a gap: it is left blank, never guessed, and counts in no share. {% if probabilities %}The strip below the curves shows
the most probable label. {% endif %}Changes compare the windows before and after a moment{% if probabilities %} (total variation:
0 the same, 1 nothing in common){% endif %}; where rows are closer than a second, the means of a second before and after.</p>
</section>
</main>
</div>
<script type="application/json" id="affect-data">{{ data | safe }}</script>
<script>{{ script | safe }}</script>
</body>
</html>
"""
