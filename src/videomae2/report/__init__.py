"""HTML pages that show what a run or an evaluation found."""
