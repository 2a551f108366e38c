"""Our models as other people's benchmarks want them: MTEB's audio tasks, HEAR, X-ARES.

Each module is imported by whom needs it, and by nothing else here; none needs its benchmark to be
installed before it is used with it.
"""
