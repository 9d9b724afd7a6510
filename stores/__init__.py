"""Everything that keeps bytes: SQL, receipts, tenant state, releases."""
