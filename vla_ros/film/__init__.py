"""Films of episodes: recorded while the robot moves, drawn when there is time for it."""
