# fish completion for litestream: install as litestream.fish in /usr/share/fish/vendor_completions.d.

# Unlike __fish_use_subcommand, does not take the value of -config for a command.
function __litestream_needs_command
    not __fish_seen_subcommand_from replicate restore snapshot databases generations snapshots wal status verify version
end

complete -c litestream -o config -r -d 'Read this configuration file'
complete -c litestream -o log-level -x -a 'trace debug info warn error' -d 'Log from this level on'
complete -c litestream -o no-expand-env -d 'Leave variables in the configuration'
complete -c litestream -o help -d 'Print the usage'
complete -c litestream -n __litestream_needs_command -f -a replicate -d 'back up databases continuously, in the foreground'
complete -c litestream -n __litestream_needs_command -f -a restore -d 'write a stored database to a file'
complete -c litestream -n __litestream_needs_command -f -a snapshot -d 'store one full snapshot, and exit'
complete -c litestream -n __litestream_needs_command -f -a databases -d 'list the databases in the configuration'
complete -c litestream -n __litestream_needs_command -f -a generations -d 'list the stored generations of a database'
complete -c litestream -n __litestream_needs_command -f -a snapshots -d 'list the stored snapshots of a database'
complete -c litestream -n __litestream_needs_command -f -a wal -d 'list the stored WAL segments of a database'
complete -c litestream -n __litestream_needs_command -f -a status -d 'compare databases with what is stored'
complete -c litestream -n __litestream_needs_command -f -a verify -d 'prove a backup restorable and equal to the live database'
complete -c litestream -n __litestream_needs_command -f -a version -d 'print the version'
complete -c litestream -n '__fish_seen_subcommand_from replicate' -o exec -x
complete -c litestream -n '__fish_seen_subcommand_from replicate' -o once
complete -c litestream -n '__fish_seen_subcommand_from replicate' -o force-snapshot
complete -c litestream -n '__fish_seen_subcommand_from replicate' -o enforce-retention
complete -c litestream -n '__fish_seen_subcommand_from replicate' -o restore-if-db-not-exists
complete -c litestream -n '__fish_seen_subcommand_from replicate' -o create-bucket
complete -c litestream -n '__fish_seen_subcommand_from restore' -s o -r
complete -c litestream -n '__fish_seen_subcommand_from restore' -o timestamp -x
complete -c litestream -n '__fish_seen_subcommand_from restore' -o generation -x
complete -c litestream -n '__fish_seen_subcommand_from restore' -o position -x
complete -c litestream -n '__fish_seen_subcommand_from restore' -o if-db-not-exists
complete -c litestream -n '__fish_seen_subcommand_from restore' -o if-replica-exists
complete -c litestream -n '__fish_seen_subcommand_from restore' -o force
complete -c litestream -n '__fish_seen_subcommand_from restore' -o dry-run
complete -c litestream -n '__fish_seen_subcommand_from restore' -o integrity-check -x -a 'none quick full'
complete -c litestream -n '__fish_seen_subcommand_from restore' -s f
complete -c litestream -n '__fish_seen_subcommand_from restore' -o follow-interval -x
complete -c litestream -n '__fish_seen_subcommand_from restore' -o json
complete -c litestream -n '__fish_seen_subcommand_from snapshot' -o create-bucket
complete -c litestream -n '__fish_seen_subcommand_from snapshot' -o enforce-retention
complete -c litestream -n '__fish_seen_subcommand_from snapshot' -o json
complete -c litestream -n '__fish_seen_subcommand_from databases' -o json
complete -c litestream -n '__fish_seen_subcommand_from generations' -o json
complete -c litestream -n '__fish_seen_subcommand_from snapshots' -o json
complete -c litestream -n '__fish_seen_subcommand_from wal' -o generation -x
complete -c litestream -n '__fish_seen_subcommand_from wal' -o json
complete -c litestream -n '__fish_seen_subcommand_from status' -o json
complete -c litestream -n '__fish_seen_subcommand_from verify' -o json
complete -c litestream -n '__fish_seen_subcommand_from version' -o json
