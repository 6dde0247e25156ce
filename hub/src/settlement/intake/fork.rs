//! Another history in the place of leaves that the books have: proof of it, and what follows.
//!
//! Invariant: nothing of the other history comes into the books, and nobody is suspended without a
//! proof that anybody can check.

use ed25519_dalek::VerifyingKey;
use keyhaven_protocol::chain::Branch;
use keyhaven_protocol::chain::ForkProof;
use keyhaven_protocol::chain::Group;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::hex::HexBytes;
use keyhaven_protocol::leaf::Head;
use keyhaven_protocol::leaf::Leaf;
use serde_json::json;

use super::super::Shared;
use super::Answer;
use super::VerifiedGroup;
use super::commit::Done;
use crate::store::StoreError;
use crate::store::amnesia::ForkRow;
use crate::store::chains::GroupRow;
use crate::store::ledger::Batch;

/// How long an agent that forked gets no link. Its operator and its owner have to talk.
const SUSPENDED_MS: u64 = 60 * 60 * 1000;

impl Shared {
    /// Keeps the proof and suspends the agent; or asks for the leaves that would tell.
    pub(super) async fn fork(
        &self,
        batch: &mut Batch,
        group: &VerifiedGroup,
        done: &mut Done,
        now_unix_ms: u64,
    ) -> Result<(), StoreError> {
        let (agent, epoch) = (group.chain.agent, group.chain.epoch);
        let Some(row) = batch.chain(agent, epoch).await? else { return Ok(()) };
        let proof = match branch_of_books(batch, group).await? {
            Some((at, ours)) => {
                branch_of_group(group, at).map(|theirs| ForkProof { chain: group.chain, at, branches: [ours, theirs] })
            }
            None => None,
        };
        let key = VerifyingKey::from_bytes(&row.agent_key).map_err(|_| StoreError::Damaged { column: "agent_key" })?;
        let Some(proof) = proof.filter(|proof| proof.verify(&key).is_ok()) else {
            // It begins beyond what the books have, or under another key.
            done.answers.push(((agent, epoch), Answer::Lost { next: row.head.size }));
            return Ok(());
        };
        let kept = ForkRow { agent, epoch, at_leaf: proof.at, proof: as_json(&proof), noted_unix_ms: now_unix_ms };
        if batch.keep_fork_proof(&kept).await? {
            let at = proof.at;
            tracing::error!(agent.id = %agent, at, "agent {agent} signed two histories of its ledger, which part after {at} leaves; the proof is kept");
            metrics::counter!("keyhaven_settlement_forks_total").increment(1);
        }
        batch.suspend_agent(agent, now_unix_ms.saturating_add(SUSPENDED_MS)).await?;
        done.answers.push(((agent, epoch), Answer::Forked));
        Ok(())
    }
}

/// After how many leaves the two differ, and what the agent signed of the books' history from there.
async fn branch_of_books(batch: &mut Batch, group: &VerifiedGroup) -> Result<Option<(u64, Branch)>, StoreError> {
    let (agent, epoch) = (group.chain.agent, group.chain.epoch);
    let most = u32::try_from(group.leaves.len()).unwrap_or(u32::MAX);
    let ours = batch.leaves_from(agent, epoch, group.from.size, most).await?;
    let pairs = ours.iter().zip(&group.leaves);
    let parted = pairs.clone().position(|(ours, theirs)| ours.hash != theirs.hash);
    let before = match group.from.size.checked_sub(1) {
        Some(last) => batch.leaves_from(agent, epoch, last, 1).await?.first().map(|leaf| leaf.hash),
        None => Some(Head::EMPTY.hash),
    };
    // The hash before differs already, or the one after the first leaf that does.
    let at = if before.is_some_and(|before| before != group.from.hash) {
        group.from.size
    } else {
        let Some(parted) = parted else { return Ok(None) };
        group.from.size.saturating_add(parted as u64).saturating_add(1)
    };
    // The group that ends with or after that many leaves.
    let Some(signed) = batch.groups_after(agent, epoch, at.saturating_sub(1), 1).await?.into_iter().next() else {
        return Ok(None);
    };
    let GroupRow { first, next, record } = signed;
    let count = u32::try_from(next.saturating_sub(first)).unwrap_or(u32::MAX);
    let leaves = batch.leaves_from(agent, epoch, first, count).await?;
    let Some(last) = leaves.last() else { return Ok(None) };
    let head = Head { size: next, hash: last.hash };
    let bytes: Vec<Vec<u8>> = leaves.into_iter().map(|leaf| leaf.bytes).collect();
    let Ok(stored) = Group::of_parts(first, bytes, record) else { return Ok(None) };
    Ok(branch(&stored, head, at).map(|branch| (at, branch)))
}

fn branch_of_group(group: &VerifiedGroup, at: u64) -> Option<Branch> {
    branch(&group.group, group.to, at)
}

/// What follows after so many leaves, up to the signed end of a group.
fn branch(group: &Group, head: Head, at: u64) -> Option<Branch> {
    let skipped = usize::try_from(at.checked_sub(group.first())?).ok()?;
    let leaves = group.leaves().get(skipped..)?.to_vec();
    Some(Branch { leaves, head, signature: group.signature().ok()? })
}

fn as_json(proof: &ForkProof) -> String {
    let branches: Vec<_> = proof
        .branches
        .iter()
        .map(|branch| {
            json!({
                "leaves": branch.leaves.iter().map(|leaf| HexBytes(leaf.clone())).collect::<Vec<_>>(),
                "leaf_hashes": branch.leaves.iter().map(|leaf| Leaf::hash(leaf)).collect::<Vec<Hex<32>>>(),
                "size": branch.head.size,
                "head": branch.head.hash,
                "signature": branch.signature,
            })
        })
        .collect();
    let chain = json!({ "fleet": proof.chain.fleet, "agent": proof.chain.agent, "epoch": proof.chain.epoch });
    json!({ "chain": chain, "at": proof.at, "branches": branches }).to_string()
}
