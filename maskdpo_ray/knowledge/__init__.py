"""Pages that sentences and facts are held against: a database, its search, passages."""
