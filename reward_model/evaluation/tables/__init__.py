"""Tables of an evaluation: ``class_tables``, ``paired_tables``, ``ablation``, ``readouts``, ``compare``, the paper's
own (``paper_tables``), ``reliability_plot``, and the files they are written to (``reports``).
"""
