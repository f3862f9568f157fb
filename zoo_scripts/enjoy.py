"""Watch a trained agent: RL Zoo's enjoy command with sb3_pg's algorithms (see ``sb3_pg.enjoy``).

RL Zoo's benchmark runs ``python enjoy.py`` in the current folder, so it can be started from this one:
``cd zoo_scripts && python -m rl_zoo3.benchmark --no-hub --log-dir ../logs``.
"""

from sb3_pg.enjoy import main

if __name__ == "__main__":
    main()
