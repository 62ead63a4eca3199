"""`seedbed audit`: attacks on what a run releases, compared with guessing, without defence and under the run's defence.

Reading order: `findings` (results), `subject` (the audited run), `views` (what the attacker sees of a message, with and
without defence), the attacks (`leaks`, `client_properties`, `members`, `canaries`, `noise_probe`), and `run_attacks`
(all of them). `reports.audit_report` draws the page.
"""
