"""Full size: what operations cost, what memory TDX takes, boots of many TDs."""
