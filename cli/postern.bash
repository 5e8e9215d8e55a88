# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
#
# bash's completion of postern's commands, options and machines' names. Needs nothing but bash; the lists are compared with
# --help by tests/cli.

_postern_words() {
	local IFS=$' \t\n'
	mapfile -t COMPREPLY < <(compgen -W "$1" -- "$2")
}

_postern_files() {
	compopt -o filenames 2>/dev/null || :
	mapfile -t COMPREPLY < <(compgen -f -- "$1")
}

_postern_run() {
	local word=$1 before=$2
	case $before in
	--kernel | --initrd | --disk | --config | --pid-file | --log-file | --secret-file | --store-credentials | --key-file)
		_postern_files "$word" ;;
	--way-out)
		_postern_words "auto kernel eject" "$word" ;;
	--log-level)
		_postern_words "error warn info debug" "$word" ;;
	--log-format)
		_postern_words "text json" "$word" ;;
	--serial | --console)
		_postern_words "null stdio pty" "$word" ;;
	--net)
		_postern_words "tap= passt fd=" "$word" ;;
	--restore | --store-cache | --second-store | --overlay)
		_postern_files "$word" ;;
	--fill)
		_postern_words "on off" "$word" ;;
	--working-set)
		_postern_words "on off record replay" "$word" ;;
	--vsock | --cmdline | --append | --cpus | -c | --memory | -m | --name | --qmp | --gdb | --gdb-page-timeout | --incoming | \
	--link-timeout | --bandwidth | --store-deadline | --second-store-after | --key-fd)
		;;
	*)
		_postern_words "--kernel --initrd --cmdline --append --cpus --memory --name --serial --disk --overlay --net --rng --console --balloon --vsock --no-reboot --dump-guest-core --paused
			--qmp --gdb --gdb-page-timeout --incoming --restore --share --fill --working-set --store-credentials --store-deadline --store-cache --second-store --second-store-after --key-file --key-fd --allow-unencrypted --changed-disks --clock-realtime --secret-file --insecure --way-out --link-timeout --bandwidth --log-level --log-format --log-file --config
			--pid-file --help" "$word" ;;
	esac
}

_postern_ctl() {
	local word=$1 before=$2
	case $before in
	--name | -n)
		_postern_words "$("${COMP_WORDS[0]}" ctl list --names 2>/dev/null)" "$word" ;;
	--qmp | --secret-file)
		_postern_files "$word" ;;
	fill)
		_postern_words "on off" "$word" ;;
	--timeout | --bandwidth | migrate | incoming | recover | qmp)
		;;
	*)
		if [[ $word == -* ]]; then
			_postern_words "--name --qmp --json --timeout --names --bandwidth --resume --secret-file --insecure --detach --help" "$word"
		else
			_postern_words "list status stop cont reset powerdown quit migrate incoming recover pause-migration cancel
				migrate-cancel fill faults events qmp" "$word"
		fi ;;
	esac
}

_postern_image() {
	local word=$1 before=$2
	case $before in
	--ssh-key | --root-password-file | debian)
		_postern_files "$word" ;;
	--suite)
		_postern_words "bookworm trixie" "$word" ;;
	--size | --package | --hostname | --mirror)
		;;
	*)
		_postern_words "debian --size --suite --package --root-password-file --ssh-key --hostname --mirror --help" "$word" ;;
	esac
}

_postern_clone() {
	local word=$1 before=$2
	case $before in
	--key-file | --overlay)
		_postern_files "$word" ;;
	--count | --name | --share | --key-fd)
		;;
	*)
		if [[ $word == -* ]]; then
			_postern_words "--count --name --share --overlay --key-file --key-fd --allow-unencrypted --help" "$word"
		else
			_postern_files "$word"
		fi ;;
	esac
}

_postern_snapshot() {
	local word=$1 before=$2
	case $before in
	--name | -n)
		_postern_words "$("${COMP_WORDS[0]}" ctl list --names 2>/dev/null)" "$word" ;;
	--qmp | --over | --store-credentials | --key-file)
		_postern_files "$word" ;;
	--format)
		_postern_words "raw mapped-ram elf" "$word" ;;
	--timeout | --buffer | --level | --parent | --threads | --dead-after | --store-deadline | --ranges | --block | --offset | --key-fd)
		;;
	*)
		if [[ $word == -* ]]; then
			_postern_words "--name --qmp --timeout --incremental --parent --track --pause --buffer --level --detach --names --threads --dry-run --dead-after
				--format --diff --over --ranges --block --offset
				--store-credentials --store-deadline --key-file --key-fd --allow-unencrypted --json --help" "$word"
		elif [[ $before == @(save|info|verify|compact|delete|list|gc|import|export) ]]; then
			_postern_files "$word"
		else
			_postern_words "save status cancel info list verify compact delete gc import export" "$word"
		fi ;;
	esac
}

_postern() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
	COMPREPLY=()
	if ((COMP_CWORD == 1)); then
		_postern_words "run clone ctl top image snapshot doctor version help" "$word"
		return
	fi
	case ${COMP_WORDS[1]} in
	run) _postern_run "$word" "$before" ;;
	ctl) _postern_ctl "$word" "$before" ;;
	image) _postern_image "$word" "$before" ;;
	clone) _postern_clone "$word" "$before" ;;
	snapshot) _postern_snapshot "$word" "$before" ;;
	top | doctor) _postern_words "--json --help" "$word" ;;
	esac
}

complete -F _postern postern
