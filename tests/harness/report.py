# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Percentiles and tables of what was measured."""

import math


def percentile(values, q):
    """The least value that at least q (0 to 1) of the values do not exceed; None without any."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def summary(values):
    """n, p50, p90, p99, max."""
    return {'n': len(values), 'p50': percentile(values, 0.5), 'p90': percentile(values, 0.9),
            'p99': percentile(values, 0.99), 'max': max(values) if values else None}


def _text(value):
    if value is None:
        return '-'
    return '%.3f' % value if isinstance(value, float) else str(value)


def table(rows, columns=None):
    """Rows (dictionaries) as an aligned text; columns: which, in which order."""
    columns = columns or list(rows[0])
    cells = [list(columns)] + [[_text(r.get(c)) for c in columns] for r in rows]
    width = [max(len(r[i]) for r in cells) for i in range(len(columns))]
    left = {i for i, c in enumerate(columns) if any(isinstance(r.get(c), str) for r in rows)}
    return '\n'.join('  '.join(c.ljust(w) if i in left else c.rjust(w)
                               for i, (c, w) in enumerate(zip(r, width))).rstrip() for r in cells)
