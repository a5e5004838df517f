//! Where a process stands among ranks, as the launcher that started it says.

use std::env;

use crate::error::Error;

/// The port of the first rank where none is named; torchrun's own takes the one before.
const PORT: u16 = 29_501;

/// Where a process stands among ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub rank: usize,
    pub n_ranks: usize,
    /// Number of the process, and of its card, on its machine.
    pub local_rank: usize,
    /// Where the first rank listens: `host:port`.
    pub address: String,
}

impl Place {
    /// Reads the variables that torchrun, Slurm or Open MPI sets for each process.
    ///
    /// # Errors
    /// [`Error::Setting`] when none of them did, or what they say makes no sense.
    pub fn from_environment() -> Result<Self, Error> {
        Self::of(|name| env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let launchers = [
            ["RANK", "WORLD_SIZE", "LOCAL_RANK"],
            ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"],
            ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"],
        ];
        let wrong = |expected: &str, found: String| {
            let fix = "start each rank by torchrun, srun or mpirun, or set RANK, WORLD_SIZE and MASTER_ADDR";
            Error::setting("gpus", expected, found, fix)
        };
        let Some([rank, n_ranks, local]) = launchers.into_iter().find(|names| variable(names[0]).is_some())
        else {
            return Err(wrong(
                "ranks that a launcher started",
                "neither RANK, SLURM_PROCID nor OMPI_COMM_WORLD_RANK".into(),
            ));
        };
        let number = |name: &str| match variable(name) {
            Some(text) => text.trim().parse().map_err(|_| wrong("a number", format!("{name}={text}"))),
            None => Err(wrong("a number", format!("no {name}"))),
        };
        let (rank, n_ranks): (usize, usize) = (number(rank)?, number(n_ranks)?);
        if rank >= n_ranks {
            return Err(wrong("a rank below the number of ranks", format!("rank {rank} of {n_ranks}")));
        }
        let local_rank = if variable(local).is_some() { number(local)? } else { rank };
        let host = variable("MASTER_ADDR")
            .or_else(|| {
                variable("SLURM_STEP_NODELIST")
                    .or_else(|| variable("SLURM_JOB_NODELIST"))
                    .map(|list| first_node(&list))
            })
            .unwrap_or_else(|| "127.0.0.1".into());
        let port = match variable("MASTER_PORT") {
            Some(port) => match port.trim().parse::<u16>().ok().and_then(|port| port.checked_add(1)) {
                Some(next) => next,
                None => return Err(wrong("a port", format!("MASTER_PORT={port}"))),
            },
            None => PORT,
        };
        Ok(Place { rank, n_ranks, local_rank, address: format!("{host}:{port}") })
    }
}

/// Returns the first machine of a list as Slurm writes them: `n[03-05,9],login` gives `n03`.
fn first_node(list: &str) -> String {
    let Some((start, rest)) = list.split_once('[').filter(|(start, _)| !start.contains(',')) else {
        return list.split(',').next().unwrap_or_default().into();
    };
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    format!("{start}{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Place, Error> {
        Place::of(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_string()))
    }

    #[test]
    fn launchers_say_where_a_process_stands() {
        let of = |rank, n_ranks, local_rank, address: &str| Place {
            rank,
            n_ranks,
            local_rank,
            address: address.into(),
        };
        let torchrun = [
            ("RANK", "3"),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "a"),
            ("MASTER_PORT", "29500"),
        ];
        assert_eq!(place(&torchrun).unwrap(), of(3, 4, 1, "a:29501"));
        let slurm = [
            ("SLURM_PROCID", "1"),
            ("SLURM_NTASKS", "2"),
            ("SLURM_LOCALID", "0"),
            ("SLURM_JOB_NODELIST", "gpu[07-08]"),
        ];
        assert_eq!(place(&slurm).unwrap(), of(1, 2, 0, "gpu07:29501"));
        let mpi = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")];
        assert_eq!(place(&mpi).unwrap(), of(0, 2, 0, "127.0.0.1:29501"));
    }

    #[test]
    fn the_first_of_slurm_s_nodes_is_found() {
        for (list, first) in [("n1", "n1"), ("n1,n2", "n1"), ("n[03-05,9],m", "n03"), ("a,n[1-2]", "a")] {
            assert_eq!(first_node(list), first);
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (variables, says) in [
            (&[][..], "neither RANK"),
            (&[("RANK", "1")], "no WORLD_SIZE"),
            (&[("RANK", "x"), ("WORLD_SIZE", "2")], "RANK=x"),
            (&[("RANK", "2"), ("WORLD_SIZE", "2")], "rank 2 of 2"),
            (&[("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_PORT", "65535")], "MASTER_PORT=65535"),
        ] {
            let error = place(variables).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
