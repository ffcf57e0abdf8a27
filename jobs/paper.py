"""All six tables of the paper, and its claims one by one: reproduced or not, with figures.

    python jobs/paper.py CONFIG [--seeds 0 1 2] [--at-once 3] [--runs runs/paper] [key=value ...]
    make paper        # on the closed world

It takes the options of all tables: with a model and data of one's own ``--other`` (table 3),
``--test`` (table 1), ``--embedding`` (table 5) and ``--samples`` (table 6).

Seeds are run ``--at-once``, each in a process of its own with its own log (``RUNS/seed-N.log``);
what they made is then put together: ``tableN.json``, ``.md`` and ``.svg``, and ``claims.json``. A
job that is started again goes on where it stopped. All share one Ray: the cluster of
``RAY_ADDRESS``, or one that is started here.
"""

import table1
import table2
import table3
import table4
import table5
import table6

from maskdpo_ray.experiments.job import run_job

TABLES = (table1, table2, table3, table4, table5, table6)

if __name__ == "__main__":
    run_job(__doc__, *(table.EXPERIMENT for table in TABLES), claims="claims.json")
