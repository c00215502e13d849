# fish completion for guard(8). A test compares commands and options with the program.

complete -c guard -f
complete -c guard -s h -l help -d 'show the options and an example'
complete -c guard -n __fish_use_subcommand -l version -d 'show the version'
complete -c guard -n __fish_use_subcommand -a run -d 'watch this host and raise the limit when needed'
complete -c guard -n __fish_use_subcommand -a history -d 'list decisions, newest first'
complete -c guard -n __fish_use_subcommand -a show -d 'tell one decision in full'
complete -c guard -n __fish_use_subcommand -a report -d 'write a page about a time on this host'
complete -c guard -n __fish_use_subcommand -a status -d 'limit, use, memory, the next step'
complete -c guard -n __fish_use_subcommand -a top -d 'who fills a table now'
complete -c guard -n __fish_use_subcommand -a doctor -d 'check this host'
complete -c guard -n __fish_use_subcommand -a pause -d 'stop raising until resumed'
complete -c guard -n __fish_use_subcommand -a resume -d 'end a pause and a stand-off'
complete -c guard -n __fish_use_subcommand -a revert -d 'go back to the limit before a raise'
complete -c guard -n __fish_use_subcommand -a notify -d 'tell of the decisions that wait'
complete -c guard -n __fish_use_subcommand -a config -d 'check, show or explain the settings'

complete -c guard -n '__fish_seen_subcommand_from run' -l dry-run -d 'rehearse: change nothing'
complete -c guard -n '__fish_seen_subcommand_from run' -l config -rF -d 'settings from this file alone'
complete -c guard -n '__fish_seen_subcommand_from run' -l check -d 'do the start-up checks and end'
complete -c guard -n '__fish_seen_subcommand_from run' -l log-format -xa 'auto text json journal' -d 'form of the log'
complete -c guard -n '__fish_seen_subcommand_from run' -l log-level -xa 'debug info warning error' -d 'least severe level to log'

complete -c guard -n '__fish_seen_subcommand_from history' -l since -x -d 'decisions from then on'
complete -c guard -n '__fish_seen_subcommand_from history' -l until -x -d 'decisions up to then'
complete -c guard -n '__fish_seen_subcommand_from history' -l last -x -d 'at most so many'
complete -c guard -n '__fish_seen_subcommand_from history' -l verdict -xa 'raise hold override' -d 'only these'
complete -c guard -n '__fish_seen_subcommand_from history' -l json -d 'print one JSON document'
complete -c guard -n '__fish_seen_subcommand_from history' -l dry-run -d 'look at the dry run'
complete -c guard -n '__fish_seen_subcommand_from history' -l no-dry-run -d 'look at the guard that acts'

complete -c guard -n '__fish_seen_subcommand_from show; and not __fish_seen_subcommand_from config' -l json -d 'print one JSON document'
complete -c guard -n '__fish_seen_subcommand_from show; and not __fish_seen_subcommand_from config' -l dry-run -d 'look at the dry run'
complete -c guard -n '__fish_seen_subcommand_from show; and not __fish_seen_subcommand_from config' -l no-dry-run -d 'look at the guard that acts'

complete -c guard -n '__fish_seen_subcommand_from report' -l since -x -d 'from then on'
complete -c guard -n '__fish_seen_subcommand_from report' -l until -x -d 'up to then'
complete -c guard -n '__fish_seen_subcommand_from report' -s o -l output -rF -d 'where the page goes'
complete -c guard -n '__fish_seen_subcommand_from report' -l dry-run -d 'look at the dry run'
complete -c guard -n '__fish_seen_subcommand_from report' -l no-dry-run -d 'look at the guard that acts'

complete -c guard -n '__fish_seen_subcommand_from status' -l json -d 'print one JSON document'
complete -c guard -n '__fish_seen_subcommand_from status' -l watch -d 'redraw in place'
complete -c guard -n '__fish_seen_subcommand_from status' -l dry-run -d 'look at the dry run'
complete -c guard -n '__fish_seen_subcommand_from status' -l no-dry-run -d 'look at the guard that acts'

complete -c guard -n '__fish_seen_subcommand_from top' -l namespace -x -d 'the table of this network namespace'
complete -c guard -n '__fish_seen_subcommand_from top' -l by -xa 'source destination port state' -d 'this kind alone'
complete -c guard -n '__fish_seen_subcommand_from top' -l watch -d 'look again every 2 s'
complete -c guard -n '__fish_seen_subcommand_from top' -l json -d 'print one JSON document'

complete -c guard -n '__fish_seen_subcommand_from doctor' -l json -d 'print one JSON document'

complete -c guard -n '__fish_seen_subcommand_from pause' -l for -x -d 'end by itself after this time'
complete -c guard -n '__fish_seen_subcommand_from pause' -l reason -x -d 'recorded with the order'

complete -c guard -n '__fish_seen_subcommand_from revert' -l all -d 'back to the limit before the first raise'
complete -c guard -n '__fish_seen_subcommand_from revert' -l dry-run -d 'tell, and do nothing'
complete -c guard -n '__fish_seen_subcommand_from revert' -l force -d 'although live flows exceed the target'
complete -c guard -n '__fish_seen_subcommand_from revert' -l reason -x -d 'recorded with the order'

complete -c guard -n '__fish_seen_subcommand_from config; and not __fish_seen_subcommand_from check show example' \
    -a 'check show example' -d 'the settings'
complete -c guard -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from check show' \
    -l config -rF -d 'this file alone'
complete -c guard -n '__fish_seen_subcommand_from config; and __fish_seen_subcommand_from show' \
    -l json -d 'one JSON document'
