"""A log of receipts that nobody can change or show two versions of unnoticed.

    merkle       the tree of RFC 9162: roots, inclusion and consistency proofs
    tree_head    what a gateway signs about its log: a C2SP checkpoint
    inclusion    a receipt's place in the log: a C2SP tlog-proof

Nothing here opens a file or a socket. Why these formats: docs/adr/0031-receipt-log.md.
"""
