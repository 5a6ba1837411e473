"""How a task is trained: optimizer, schedule, loop, checkpoints, logs. It knows no method."""
