"""Pure statistics: metrics, intervals, tests, each formula with its source."""
