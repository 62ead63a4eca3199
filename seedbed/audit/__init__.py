"""`seedbed audit`: attacks on what a run releases, each beside a guess, undefended and under the run's own defence.

Read in this order: `findings` (what an attack says), `subject` (what is attacked), `views` (what the attacker sees of a
message, without a defence and with one), the attacks (`leaks`, `properties`, `members`, `canaries`), `audit` (all of
them), `page` and `pictures` (for people).
"""
