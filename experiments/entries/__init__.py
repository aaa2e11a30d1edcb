"""The paper's tables and figures by the number of the table, or of the figure where there is none."""

from experiments.entries import ablations, classification, neighbours

TABLES = classification.TABLES | neighbours.TABLES | ablations.TABLES
