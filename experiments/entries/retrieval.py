"""Image retrieval (Table 8), adaptive and funnel retrieval (Tables 11 to 14), shortlist lengths (Tables 30 and 31)."""

TABLES = {}
