# bash completion for litestream: install as /usr/share/bash-completion/completions/litestream.

_litestream() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= options= at

    case $before in
        -config | --config | -o | --o | -missing | --missing | -identity | --identity) COMPREPLY=($(compgen -f -- "$word")); return ;;
        -log-level | --log-level) COMPREPLY=($(compgen -W "trace debug info warn error" -- "$word")); return ;;
        -integrity-check | --integrity-check) COMPREPLY=($(compgen -W "none quick full" -- "$word")); return ;;
    esac
    for ((at = 1; at < COMP_CWORD; at++)); do
        case ${COMP_WORDS[at]} in
            replicate | restore | snapshot | delete | list | compact | databases | generations | snapshots | wal | status | verify | version) command=${COMP_WORDS[at]} ;;
        esac
    done
    case $command in
        replicate) options="-exec -once -force-snapshot -enforce-retention -restore-if-db-not-exists -create-bucket -allow-other-database -allow-unencrypted -takeover" ;;
        restore) options="-o -all -timestamp -strict -generation -position -if-db-not-exists -if-replica-exists -force -force-open -allow-other-database -dry-run -integrity-check -f -promote -follow-interval -exec -exec-signal -identity -q -json" ;;
        snapshot) options="-full -create-bucket -allow-other-database -allow-unencrypted -enforce-retention -retention -q -json" ;;
        delete) options="-dry-run -yes -json" ;;
        list) options="-max-age -missing -identity -json" ;;
        compact) options="-once -interval -retention -keep -metrics-file -dry-run -identity -json" ;;
        databases) options="-json" ;;
        generations) options="-json" ;;
        snapshots) options="-json" ;;
        wal) options="-generation -json" ;;
        status) options="-identity -json" ;;
        verify) options="-live -identity -q -json" ;;
        version) options="-json" ;;
        *) options="replicate restore snapshot delete list compact databases generations snapshots wal status verify version" ;;
    esac
    options=" $options -config -log-level -no-expand-env -context -replica -help"
    [[ $word == --* ]] && options=${options// -/ --}
    COMPREPLY=($(compgen -W "$options" -- "$word"))
    [[ -n $command && $word != -* ]] && COMPREPLY+=($(compgen -f -- "$word"))
}

complete -o filenames -F _litestream litestream
