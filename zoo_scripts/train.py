"""Train an agent: RL Zoo's train command with sb3_pg's algorithms (see ``sb3_pg.train``)."""

from sb3_pg.train import main

if __name__ == "__main__":
    main()
