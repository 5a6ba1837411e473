"""One file a training method: what a batch becomes, and how it is judged."""
