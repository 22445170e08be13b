"""Claims against others: what the paper and this project say, measured again."""
