"""A drawing kit: charts, SVG, pages, and files for papers. It knows no metric; a page lies beside what it shows.

A chart is described once, in ``charts``. ``svg`` draws it in a page, and ``figures`` keeps it beside the page, from
where ``canvas`` draws it as PDF, PNG or SVG when someone asks for that. Only ``canvas`` needs matplotlib.
"""
