'use strict';
// Counts, gauges and histograms, and the page that shows them: text or OpenMetrics, as the scraper asks.
//
// Histograms are kept here and not in prom-client because they need both formats at once, exemplars, and a bound on
// the number of series. What the application keeps in prom-client is shown on the same page.

const { METRICS, OTHER } = require('./names.cjs');

const SERIES_LIMIT = 2000;

class Families {
  #series = new Map(Object.values(METRICS).map((metric) => [metric.name, new Map()]));

  /** Add to a counter or a gauge; label values in the order of `metric.labels`. */
  add(metric, labels, amount = 1) {
    this.#find(metric, labels).value += amount;
  }

  /** Add an observation to a histogram; `trace` ({traceId, spanId}) of a sampled trace becomes the exemplar. */
  observe(metric, labels, value, trace) {
    const series = this.#find(metric, labels);
    let index = metric.buckets.findIndex((bound) => value <= bound);
    if (index < 0) index = metric.buckets.length;
    series.counts[index] += 1;
    series.value += value;
    if (trace) {
      series.exemplars[index] = { traceId: trace.traceId, spanId: trace.spanId, value, at: Date.now() / 1000 };
    }
  }

  /** Count a piece of telemetry that was lost: which signal, and why (a short constant word). */
  dropped(signal, reason) {
    this.add(METRICS.DROPPED, [signal, reason]);
  }

  #find(metric, labels) {
    const all = this.#series.get(metric.name);
    let key = JSON.stringify(labels);
    let series = all.get(key);
    if (series === undefined && all.size >= SERIES_LIMIT) {
      if (metric !== METRICS.DROPPED) this.dropped('metrics', 'series_limit');
      labels = labels.map(() => OTHER);
      key = JSON.stringify(labels);
      series = all.get(key);
    }
    if (series === undefined) {
      const slots = (metric.buckets?.length ?? 0) + 1;
      series = { labels, value: 0, counts: new Array(slots).fill(0), exemplars: new Array(slots) };
      all.set(key, series);
    }
    return series;
  }

  /** Return [content type, body] of a scrape. `others` are families as prom-client's getMetricsAsJSON gives them. */
  page(accept, others) {
    const open = (accept ?? '').includes('application/openmetrics-text');
    const lines = [];
    for (const metric of Object.values(METRICS)) {
      head(lines, metric.name, metric.kind, metric.help, open);
      for (const series of this.#series.get(metric.name).values()) {
        if (metric.kind === 'histogram') histogram(lines, metric, series, open);
        else lines.push(`${metric.name}${labelled(metric.labels, series.labels)} ${series.value}`);
      }
    }
    for (const family of others) foreign(lines, family, open);
    if (open) lines.push('# EOF');
    const type = open ? 'application/openmetrics-text; version=1.0.0' : 'text/plain; version=0.0.4';
    return [`${type}; charset=utf-8`, `${lines.join('\n')}\n`];
  }
}

function head(lines, name, kind, help, open) {
  let shown = name;
  if (open && kind === 'counter') shown = name.replace(/_total$/, '');
  if (open && kind === 'info') shown = name.replace(/_info$/, '');
  lines.push(`# HELP ${shown} ${escape(help, open)}`, `# TYPE ${shown} ${!open && kind === 'info' ? 'gauge' : kind}`);
}

function histogram(lines, metric, series, open) {
  let count = 0;
  series.counts.forEach((added, index) => {
    count += added;
    const bound = metric.buckets[index];
    // As Python writes it: series of both have to have the same label to be added up.
    const le = bound === undefined ? '+Inf' : Number.isInteger(bound) ? bound.toFixed(1) : String(bound);
    const labels = labelled([...metric.labels, 'le'], [...series.labels, le]);
    lines.push(`${metric.name}_bucket${labels} ${count}${open ? exemplar(series.exemplars[index]) : ''}`);
  });
  const labels = labelled(metric.labels, series.labels);
  lines.push(`${metric.name}_count${labels} ${count}`, `${metric.name}_sum${labels} ${series.value}`);
}

function exemplar(found) {
  if (found === undefined) return '';
  return ` # {trace_id="${found.traceId}",span_id="${found.spanId}"} ${found.value} ${found.at.toFixed(3)}`;
}

function foreign(lines, family, open) {
  const counter = family.type === 'counter';
  const name = open && counter && !family.name.endsWith('_total') ? `${family.name}_total` : family.name;
  head(lines, name, family.type, family.help, open);
  for (const sample of family.values) {
    const value = Number.isFinite(sample.value) ? sample.value : String(sample.value).replace('Infinity', 'Inf');
    const labels = labelled(Object.keys(sample.labels), Object.values(sample.labels));
    lines.push(`${counter ? name : (sample.metricName ?? name)}${labels} ${value}`);
  }
}

function labelled(names, values) {
  if (names.length === 0) return '';
  return `{${names.map((name, index) => `${name}="${escape(String(values[index]), true)}"`).join(',')}}`;
}

function escape(text, quotes) {
  const escaped = text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n');
  return quotes ? escaped.replaceAll('"', '\\"') : escaped;
}

module.exports = { Families };
